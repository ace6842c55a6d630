//! `portcullis build`: a policy becomes one component, whatever it is made of.

mod compose;
mod core_module;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use wasmparser::Parser;

use self::core_module::component_of;
use super::paint::printable_lines;
use super::test::read_cases;
use super::{output, paint, policy, report};
use crate::edit::replace::replace;
use portcullis::{DocumentError, Engine, cases_beside};

/// Make one self-contained component: of a rules document, of a core module, of a middleware and a policy inside it
///
/// Checks a rules document and runs its tests first; on errors nothing is written. A core module, as compilers of C and of
/// Rust for wasm32-unknown-unknown make them, becomes a component of the interface. What is not rules alone is loaded, and
/// held against POLICY.tests.json, before it is written.
///
/// With --http the component is no policy: it exports wasi:http/incoming-handler, and `wasmtime serve` runs it.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis build rules.json -o policy.wasm\n  portcullis build policy.core.wasm -o policy.wasm\n  portcullis build middleware.wasm --around rules.json -o policy.wasm\n  portcullis build rules.json --http -o server.wasm"
)]
pub struct Build {
    /// The rules document (.json), or the core module or component (.wasm)
    source: PathBuf,
    /// The policy inside, for a middleware: a rules document or a component
    #[arg(long, value_name = "POLICY")]
    around: Option<PathBuf>,
    /// Have it answer contexts by HTTP, at /v1/evaluate and /v1/explain
    #[arg(long)]
    http: bool,
    /// The component to write
    #[arg(short, long, value_name = "POLICY.wasm")]
    output: PathBuf,
}

/// What answers by HTTP, and asks the policy inside.
const HTTP: &[u8] = include_bytes!(env!("PORTCULLIS_HTTP"));

/// A component, and what it was made of.
struct Made {
    component: Vec<u8>,
    of: Source,
}

enum Source {
    /// Rules, whose tests were run.
    Rules {
        connectors: u32,
        tests: u32,
    },
    Module,
    /// Nothing: it was there.
    Component,
}

impl Build {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let output = &self.output;
        for source in [&self.source].into_iter().chain(&self.around) {
            if let (Ok(source), Ok(output)) = (source.canonicalize(), output.canonicalize())
                && source == output
            {
                bail!(
                    "{}: it would overwrite what it is made of",
                    output.display()
                );
            }
        }
        let engine = policy::engine(policy::limits())?;
        let Some(made) = self.made(&engine).await? else {
            return Ok(ExitCode::from(1));
        };
        let told = match made.of {
            Source::Rules { connectors, tests } => {
                format!("{connectors} connectors, {}", passed(tests))
            }
            Source::Module | Source::Component => {
                match self.tested(&engine, &made.component).await? {
                    Some(tests) => passed(tests),
                    None => return Ok(ExitCode::from(1)),
                }
            }
        };
        let component = match self.http {
            true => compose::around(HTTP, &made.component)?,
            false => made.component,
        };
        replace(output, &component)
            .with_context(|| format!("cannot write {}", output.display()))?;
        let size = component.len();
        output::tell(&format!("{}: {told}, {size} bytes\n", output.display()));
        Ok(ExitCode::SUCCESS)
    }

    /// The component; `None` if there are problems, which are told.
    async fn made(&self, engine: &Engine) -> anyhow::Result<Option<Made>> {
        let path = self.source.display();
        let Some(made) = made_of(engine, &self.source).await? else {
            return Ok(None);
        };
        let Some(inner) = &self.around else {
            if let (Source::Component, false) = (&made.of, self.http) {
                bail!("{path}: this is a component already");
            }
            return Ok(Some(made));
        };
        if let Source::Rules { .. } = made.of {
            bail!("{path}: rules ask no policy inside; --around is for a component that does");
        }
        let Some(inner) = made_of(engine, inner).await? else {
            return Ok(None);
        };
        let composed = compose::around(&made.component, &inner.component);
        let component = composed.map_err(|error| anyhow!("{path}: {error:#}"))?;
        Ok(Some(Made { component, ..made }))
    }

    /// Loads a component and holds it against the cases beside it; gives how many there are, or `None` if it fails one,
    /// which is told.
    async fn tested(&self, engine: &Engine, component: &[u8]) -> anyhow::Result<Option<u32>> {
        let path = self.source.display().to_string();
        let loaded = engine.load_component(&path, component.to_owned()).await?;
        let cases = cases_beside(&self.output).filter(|beside| beside.exists());
        let Some(beside) = cases else {
            return Ok(Some(0));
        };
        let cases = read_cases(&beside)?;
        let failed = loaded.run_cases(&cases).await;
        for failed in &failed {
            let line = format!("{}:{}: {failed}\n", beside.display(), failed.line);
            output::tell(&printable_lines(&line));
        }
        let number = u32::try_from(cases.len()).unwrap_or(u32::MAX);
        Ok(failed.is_empty().then_some(number))
    }
}

fn passed(tests: u32) -> String {
    match tests {
        1 => "1 test passed".into(),
        _ => format!("{tests} tests passed"),
    }
}

/// The component of a file; `None` if it is rules with errors, which are told.
async fn made_of(engine: &Engine, path: &Path) -> anyhow::Result<Option<Made>> {
    if path.extension().is_none_or(|it| it != "wasm") {
        return of_rules(engine, path).await;
    }
    let bytes = policy::read(path)?;
    if !bytes.starts_with(b"\0asm") {
        bail!("{}: this is not WebAssembly", path.display());
    }
    if !Parser::is_core_wasm(&bytes) {
        let (component, of) = (bytes, Source::Component);
        return Ok(Some(Made { component, of }));
    }
    let component = component_of(bytes);
    Ok(Some(Made {
        component: component.map_err(|error| anyhow!("{}: {error:#}", path.display()))?,
        of: Source::Module,
    }))
}

async fn of_rules(engine: &Engine, path: &Path) -> anyhow::Result<Option<Made>> {
    let document = policy::read_document(path)?;
    let show = |problems: &[_]| {
        let colour = paint::wanted(&std::io::stderr());
        let path = path.display().to_string();
        output::tell(&report::problems(&path, &document, problems, colour));
    };
    let rules = match engine.read(document.clone()).await {
        Ok(rules) => rules,
        Err(DocumentError::Rejected(problems)) => {
            show(&problems);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let summary = &rules.summary;
    if !summary.warnings.is_empty() {
        show(&summary.warnings);
    }
    Ok(Some(Made {
        component: engine.build(&path.display().to_string(), &rules)?,
        of: Source::Rules {
            connectors: summary.connectors,
            tests: summary.tests,
        },
    }))
}
