//! Where the daemon answers: mail, other mail servers, numbers, the API.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;

use super::Daemon;
use crate::admin::{self, Admin, http};
use crate::egress::pool::Pool;
use crate::frontend::mta::{self, Frontend};
use crate::frontend::smtp::accept;
use crate::socket::{Bound, Place, Sockets};

impl Daemon {
    /// Tells numbers, and whether mail may come, where that is configured.
    pub(super) async fn serve_metrics(&mut self, sockets: &mut Sockets) -> anyhow::Result<()> {
        let Some(metrics) = &self.config.metrics else {
            return Ok(());
        };
        let address = metrics.address;
        let bound = sockets.listen(&Place::Tcp(address)).await;
        let bound = bound.with_context(|| format!("cannot listen on {address}"))?;
        if let Bound::Tcp(listener, address) = bound {
            tracing::info!(metrics = %address, "metrics server listening");
            self.servers
                .spawn(http::serve(self.server.clone(), listener));
        }
        Ok(())
    }

    /// Takes mail.
    pub(super) async fn serve_listeners(&mut self, sockets: &mut Sockets) -> anyhow::Result<()> {
        let mut bound = Vec::new();
        for listener in &self.listeners {
            let address = listener.config.address;
            let socket = sockets.listen(&Place::Tcp(address)).await;
            let socket = socket.with_context(|| format!("cannot listen on {address}"))?;
            if let Bound::Tcp(socket, address) = socket {
                bound.push((listener, socket, address));
            }
        }
        if let Some(outbound) = self.outbound.made() {
            outbound.listens_on(bound.iter().map(|(_, _, address)| *address).collect());
            tokio::spawn(Pool::sweep(Arc::downgrade(outbound.pool())));
        }
        self.server.is_listening.store(true, Ordering::Relaxed);
        for (listener, socket, address) in bound {
            tracing::info!(%address, "listening");
            tokio::spawn(accept::serve(listener.clone(), self.server.clone(), socket));
        }
        Ok(())
    }

    /// Answers other mail servers, where that is configured.
    pub(super) async fn serve_frontends(&mut self, sockets: &mut Sockets) -> anyhow::Result<()> {
        for (number, configured) in self.config.frontends.iter().enumerate() {
            let bound = sockets.listen(&configured.place).await;
            let bound = bound.with_context(|| match &configured.place {
                Place::Tcp(address) => format!("[[frontend]] cannot listen on {address}"),
                Place::Unix(unix) => {
                    format!("[[frontend]] cannot listen on {}", unix.path.display())
                }
            })?;
            let protocols: Vec<&str> = configured.protocols.iter().map(|it| it.name()).collect();
            let protocols = protocols.join(" ");
            tracing::info!(frontend = %bound, protocols, "listening for mail servers");
            let frontend = Frontend::new(
                number,
                configured.clone(),
                self.server.clone(),
                self.outbound.clone(),
            );
            self.doors.spawn(mta::serve(bound, Arc::new(frontend)));
        }
        Ok(())
    }

    /// Serves the API and its page, if that is configured.
    pub(super) async fn serve_admin(&mut self, sockets: &mut Sockets) -> anyhow::Result<()> {
        let Some(configured) = &self.config.admin else {
            return Ok(());
        };
        let place = configured.place();
        let bound = sockets.listen(&place).await;
        let bound =
            bound.with_context(|| format!("[admin] cannot listen on {}", configured.address))?;
        let admin = Admin::new(
            self.server.clone(),
            self.config.clone(),
            self.updated.subscribe(),
            self.fleet_for_admin(configured).await?,
        );
        let admin = Arc::new(admin);
        let shown = match &bound {
            Bound::Tcp(_, address) => format!("http://{address}/"),
            Bound::Unix(..) => bound.to_string(),
        };
        tracing::info!(admin = %shown, "API listening");
        self.servers.spawn(admin::serve(bound, admin.clone()));
        self.admin = Some(admin);
        Ok(())
    }
}
