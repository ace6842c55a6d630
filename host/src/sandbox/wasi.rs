//! The empty world for modules that ask for WASI 0.2: no files, no sockets, no environment; what
//! they print goes to the log at debug level.

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::instance::State;

/// What one write may hold, and what of it is logged.
const MOST: usize = 4096;

/// A module's view of the world.
pub struct World {
    context: WasiCtx,
    table: ResourceTable,
}

impl World {
    /// An empty world; `module` names the source of what is printed.
    pub fn new(module: &str) -> Self {
        let output = Output(module.into());
        World {
            context: WasiCtx::builder()
                .stdout(output.clone())
                .stderr(output)
                .build(),
            table: ResourceTable::new(),
        }
    }

    /// The view that wasmtime's WASI works on.
    pub fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.context,
            table: &mut self.table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.world().view()
    }
}

/// The linker that all modules share; what may be asked of it is decided before, see `inspect`.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Ok(linker)
}

#[derive(Clone)]
struct Output(std::sync::Arc<str>);

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
        tracing::debug!(module = %self.0, output = text.trim_end(), "the module printed");
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MOST)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}
