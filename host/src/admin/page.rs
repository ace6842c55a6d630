//! The page: files that are in the binary, and the evaluator, which runs in the browser.

use anyhow::Context as _;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};

use super::answer::{Answer, whole};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const WASM: &str = "application/wasm";

macro_rules! files {
    ($($path:literal $kind:ident $file:literal;)*) => {
        &[$(($path, $kind, include_bytes!(concat!("page/", $file)))),*]
    };
}

/// The files, by their paths.
const FILES: &[(&str, &str, &[u8])] = files! {
    "/" HTML "index.html";
    "/style.css" STYLE "style.css";
    "/icon.svg" IMAGE "icon.svg";
    "/app.js" SCRIPT "app.js";
    "/aside.js" SCRIPT "aside.js";
    "/api.js" SCRIPT "api.js";
    "/connector.js" SCRIPT "connector.js";
    "/connectors.js" SCRIPT "connectors.js";
    "/decisions.js" SCRIPT "decisions.js";
    "/evaluator.js" SCRIPT "evaluator.js";
    "/fields.js" SCRIPT "fields.js";
    "/history.js" SCRIPT "history.js";
    "/importing.js" SCRIPT "importing.js";
    "/texts.js" SCRIPT "texts.js";
    "/ui.js" SCRIPT "ui.js";
    "/whatif.js" SCRIPT "whatif.js";
    "/worker.js" SCRIPT "worker.js";
    "/vendor/preact.js" SCRIPT "vendor/preact.js";
    "/vendor/LICENSES.txt" TEXT "vendor/LICENSES.txt";
};

/// A file of the page.
pub fn file(path: &str) -> Option<Answer> {
    if path == "/evaluator.wasm" {
        let module = portcullis::evaluator_core_module()?;
        return Some(revalidated(whole(StatusCode::OK, WASM, module)));
    }
    let (_, kind, bytes) = FILES.iter().find(|(own, ..)| *own == path)?;
    Some(revalidated(whole(StatusCode::OK, kind, *bytes)))
}

/// What the demo says in the place of a server, and the rules that it begins with.
const DEMO: &[u8] = include_bytes!("page/demo.js");
const RULES: &[u8] = include_bytes!("../../../examples/rules.json");

/// The files of the page without a server, by their names.
///
/// # Errors
/// If the evaluator was not built as it must be.
pub fn demo() -> anyhow::Result<Vec<(&'static str, &'static [u8])>> {
    let module =
        portcullis::evaluator_core_module().context("there is no evaluator in this binary")?;
    let own = FILES.iter().map(|(path, _, bytes)| match *path {
        "/" => ("index.html", *bytes),
        "/api.js" => ("api.js", DEMO),
        path => (path.trim_start_matches('/'), *bytes),
    });
    let more = [("evaluator.wasm", module), ("rules.json", RULES)];
    Ok(own.chain(more).collect())
}

/// It is the same until there is another binary.
fn revalidated(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}
