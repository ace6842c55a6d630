//! Where the daemon answers: mail, other mail servers, numbers, the API. All is bound before anything is served: where
//! something cannot be bound, nobody has been let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::Daemon;
use crate::admin::{self, Admin, http};
use crate::egress::pool::Pool;
use crate::frontend::mta::{self, Frontend};
use crate::frontend::smtp::accept;
use crate::frontend::smtp::listener::Listener;
use crate::socket::{Bound, Place, Sockets};

/// What is bound, and not served yet.
pub(super) struct Doors {
    listeners: Vec<(Arc<Listener>, TcpListener, SocketAddr)>,
    frontends: Vec<Bound>,
    admin: Option<(Bound, Arc<Admin>)>,
}

impl Daemon {
    /// Binds where numbers are told, and whether mail may come, if that is configured.
    pub(super) async fn bind_metrics(
        &self,
        sockets: &mut Sockets,
    ) -> anyhow::Result<Option<Bound>> {
        let Some(metrics) = &self.config.metrics else {
            return Ok(None);
        };
        let address = metrics.address;
        let bound = sockets.listen(&Place::Tcp(address)).await;
        let bound = bound.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Some(bound))
    }

    /// Tells numbers there.
    pub(super) fn serve_metrics(&mut self, bound: Option<Bound>) {
        if let Some(Bound::Tcp(listener, address)) = bound {
            tracing::info!(metrics = %address, "metrics server listening");
            self.servers
                .spawn(http::serve(self.server.clone(), listener));
        }
    }

    /// Binds everything else that is configured.
    pub(super) async fn bind(&self, sockets: &mut Sockets) -> anyhow::Result<Doors> {
        Ok(Doors {
            listeners: self.bind_listeners(sockets).await?,
            frontends: self.bind_frontends(sockets).await?,
            admin: self.bind_admin(sockets).await?,
        })
    }

    async fn bind_listeners(
        &self,
        sockets: &mut Sockets,
    ) -> anyhow::Result<Vec<(Arc<Listener>, TcpListener, SocketAddr)>> {
        let mut all = Vec::new();
        for listener in &self.listeners {
            let address = listener.config.address;
            let bound = sockets.listen(&Place::Tcp(address)).await;
            let bound = bound.with_context(|| format!("cannot listen on {address}"))?;
            if let Bound::Tcp(socket, address) = bound {
                all.push((listener.clone(), socket, address));
            }
        }
        Ok(all)
    }

    async fn bind_frontends(&self, sockets: &mut Sockets) -> anyhow::Result<Vec<Bound>> {
        let mut all = Vec::new();
        for configured in &self.config.frontends {
            let bound = sockets.listen(&configured.place).await;
            all.push(bound.with_context(|| match &configured.place {
                Place::Tcp(address) => format!("[[frontend]] cannot listen on {address}"),
                Place::Unix(unix) => {
                    format!("[[frontend]] cannot listen on {}", unix.path.display())
                }
            })?);
        }
        Ok(all)
    }

    async fn bind_admin(
        &self,
        sockets: &mut Sockets,
    ) -> anyhow::Result<Option<(Bound, Arc<Admin>)>> {
        let Some(configured) = &self.config.admin else {
            return Ok(None);
        };
        let bound = sockets.listen(&configured.place()).await;
        let bound =
            bound.with_context(|| format!("[admin] cannot listen on {}", configured.address))?;
        let admin = Admin::new(
            self.server.clone(),
            self.config.clone(),
            self.updated.subscribe(),
            self.fleet_for_admin(configured).await?,
        );
        Ok(Some((bound, Arc::new(admin))))
    }

    /// Takes mail, answers other mail servers, and serves the API and its page.
    pub(super) fn serve_all(&mut self, doors: Doors) {
        if let Some(outbound) = self.outbound.made() {
            let addresses = doors.listeners.iter().map(|(_, _, address)| *address);
            outbound.listens_on(addresses.collect());
            tokio::spawn(Pool::sweep(Arc::downgrade(outbound.pool())));
        }
        self.server.is_listening.store(true, Ordering::Relaxed);
        for (listener, socket, address) in doors.listeners {
            tracing::info!(%address, "listening");
            tokio::spawn(accept::serve(listener, self.server.clone(), socket));
        }
        let frontends = doors.frontends.into_iter().zip(&self.config.frontends);
        for (number, (bound, configured)) in frontends.enumerate() {
            let protocols: Vec<&str> = configured.protocols.iter().map(|it| it.name()).collect();
            let protocols = protocols.join(" ");
            tracing::info!(frontend = %bound, protocols, "listening for mail servers");
            let (server, outbound) = (self.server.clone(), self.outbound.clone());
            let frontend = Frontend::new(number, configured.clone(), server, outbound);
            self.doors.spawn(mta::serve(bound, Arc::new(frontend)));
        }
        if let Some((bound, admin)) = doors.admin {
            let shown = match &bound {
                Bound::Tcp(_, address) => format!("http://{address}/"),
                Bound::Unix(..) => bound.to_string(),
            };
            tracing::info!(admin = %shown, "API listening");
            self.servers.spawn(admin::serve(bound, admin.clone()));
            self.admin = Some(admin);
        }
    }
}
