//! A browser, driven by its DevTools protocol: Debian's Chromium, without a window.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use crate::daemon::{TIMEOUT, binary};
use crate::programs;

/// How long to wait for one more message.
const TICK: Duration = Duration::from_millis(50);
/// Finds what is not accessible (MPL-2.0, unchanged).
const AXE: &str = include_str!("../browser/axe.min.js");
/// Notes what the page's policy forbids, before the page begins.
const WATCH: &str = "window.violations = []; addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));";

/// A browser with one tab.
pub struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    last: u64,
    events: VecDeque<Value>,
    _folder: TempDir,
}

/// How large a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// On a desk.
    Wide,
    /// On a phone.
    Phone,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Browser {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-port=0",
                "--lang=en-GB",
            ])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .env("HOME", folder.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(programs::missing("chromium"));
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("DevTools listening on ")?.to_owned()))
            .expect("the browser tells where it listens");
        // Nobody reads what it says later.
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = tungstenite::connect(&address).expect("the browser answers");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(TICK)).expect("a time limit");
        }
        let mut browser = Browser {
            child,
            socket,
            session: String::new(),
            last: 0,
            events: VecDeque::new(),
            _folder: folder,
        };
        let target = browser.send("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.send("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().expect("a session").into();
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            browser.send(&format!("{domain}.enable"), json!({}));
        }
        browser.send(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": WATCH }),
        );
        browser.resize(Window::Wide);
        browser
    }

    /// Sends a command, and gives its result.
    pub fn send(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let text = command.to_string();
        self.socket
            .send(Message::text(text))
            .expect("the browser listens");
        let until = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < until, "no answer to {method}");
            let Some(message) = self.receive() else {
                continue;
            };
            if message["id"] == self.last {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    fn receive(&mut self) -> Option<Value> {
        match self.socket.read() {
            Ok(Message::Text(text)) => serde_json::from_str(&text).ok(),
            Ok(_) => None,
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                None
            }
            Err(error) => panic!("the browser is gone: {error}"),
        }
    }

    /// Opens a page, and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        self.send("Page.navigate", json!({ "url": url }));
        self.wait("document.readyState === 'complete'");
    }

    /// The value of an expression; a promise is waited for.
    pub fn eval(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.send("Runtime.evaluate", asked);
        let wrong = &result["exceptionDetails"];
        assert!(wrong.is_null(), "{expression}: {wrong}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        let until = Instant::now() + TIMEOUT;
        while self.eval(&format!("Boolean({expression})")) != json!(true) {
            if Instant::now() > until {
                let text = self.text();
                let events = &self.events;
                panic!("it never came: {expression}\n{text}\n{events:?}");
            }
        }
    }

    /// Waits until the page has a text.
    pub fn wait_for_text(&mut self, text: &str) {
        self.wait(&format!(
            "document.body?.innerText?.includes({})",
            json!(text)
        ));
    }

    /// All text that is seen.
    pub fn text(&mut self) -> String {
        let text = self.eval("document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks the first element with a text, as a mouse would.
    pub fn click_text(&mut self, selector: &str, text: &str) {
        let find = format!(
            "[...document.querySelectorAll({})].find((it) => it.innerText.trim() === {} && it.checkVisibility())",
            json!(selector),
            json!(text)
        );
        self.click_found(&find);
    }

    /// Clicks an element.
    pub fn click(&mut self, selector: &str) {
        self.click_found(&format!("document.querySelector({})", json!(selector)));
    }

    fn click_found(&mut self, find: &str) {
        self.wait(find);
        let place = self.eval(&format!(
            "(() => {{ const it = {find}; it.scrollIntoView({{ block: 'center' }}); const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.send("Input.dispatchMouseEvent", event);
        }
    }

    /// Types a text into a field, in the place of what is in it.
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.wait(&format!("document.querySelector({})", json!(selector)));
        self.eval(&format!(
            "(() => {{ const it = document.querySelector({}); it.scrollIntoView({{ block: 'center' }}); it.focus(); it.select(); }})()",
            json!(selector)
        ));
        match text {
            "" => self.key("Delete", 46, ""),
            text => drop(self.send("Input.insertText", json!({ "text": text }))),
        }
    }

    /// Chooses an entry of a list.
    pub fn choose(&mut self, selector: &str, value: &str) {
        self.wait(&format!("document.querySelector({})", json!(selector)));
        self.eval(&format!(
            "(() => {{ const it = document.querySelector({}); it.value = {}; it.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()",
            json!(selector),
            json!(value)
        ));
    }

    /// Gives a field a file.
    pub fn choose_file(&mut self, selector: &str, file: &Path) {
        let document = self.send("DOM.getDocument", json!({}));
        let asked = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let found = self.send("DOM.querySelector", asked);
        let files = json!({ "files": [file], "nodeId": found["nodeId"] });
        self.send("DOM.setFileInputFiles", files);
    }

    /// Presses a key; `text` is what it writes.
    pub fn key(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.send("Input.dispatchKeyEvent", event);
        }
    }

    /// Gives the window another size.
    pub fn resize(&mut self, window: Window) {
        let (width, height, mobile) = match window {
            Window::Wide => (1280, 900, false),
            Window::Phone => (390, 844, true),
        };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.send("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Prefers dark pages, or light ones.
    pub fn prefer_dark(&mut self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.send("Emulation.setEmulatedMedia", features);
    }

    /// Keeps a picture of the page beside the tested binary, for people to look at.
    pub fn picture(&mut self, name: &str) -> PathBuf {
        let shot = self.send(
            "Page.captureScreenshot",
            json!({ "format": "png", "captureBeyondViewport": false }),
        );
        let octets = decoded(shot["data"].as_str().expect("a picture"));
        let folder = binary().with_file_name("screenshots");
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, octets).expect("a picture");
        path
    }

    /// What is not accessible, by axe-core: rules and elements.
    pub fn inaccessible(&mut self) -> Vec<String> {
        if self.eval("typeof axe") == "undefined" {
            self.eval(&format!("{AXE}; true"));
        }
        let found = self.eval("axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html} ${node.failureSummary}`)))");
        let found = found.as_array().cloned().unwrap_or_default();
        found
            .iter()
            .map(|it| it.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// What went wrong in the page: forbidden by its policy, thrown, or written to the console as an error.
    pub fn wrongs(&mut self) -> Vec<String> {
        let violations = self.eval("window.violations ?? []");
        let violations = violations.as_array().cloned().unwrap_or_default();
        let mut found: Vec<String> = violations
            .iter()
            .map(|it| format!("policy: {it}"))
            .collect();
        for event in &self.events {
            let parameters = &event["params"];
            match event["method"].as_str() {
                Some("Runtime.exceptionThrown") => {
                    let details = &parameters["exceptionDetails"];
                    found.push(format!(
                        "thrown: {} {}",
                        details["text"], details["exception"]["description"]
                    ));
                }
                Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => {
                    found.push(format!("console: {}", parameters["args"]));
                }
                Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                    found.push(format!(
                        "log: {} {}",
                        parameters["entry"]["text"], parameters["entry"]["url"]
                    ));
                }
                _ => {}
            }
        }
        found
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RFC 4648 §4, of what the browser has written.
fn decoded(text: &str) -> Vec<u8> {
    let value = |octet: u8| match octet {
        b'A'..=b'Z' => octet - b'A',
        b'a'..=b'z' => octet - b'a' + 26,
        b'0'..=b'9' => octet - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut octets = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, octet| bits << 6 | u32::from(value(*octet)));
        let bits = bits << (6 * (4 - group.len()));
        let all = bits.to_be_bytes();
        octets.extend(&all[1..group.len()]);
    }
    octets
}
