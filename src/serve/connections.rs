//! Connections: as many as may be, each with a while to say what it wants.
//!
//! The one idea: who connects and says nothing, or a byte now and then, is hung up on; and who says nothing between two requests
//! too. The rest is hyper's.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time; more wait to be accepted.
const MOST: usize = 16_384;
/// Before another try, when none can be accepted: all file descriptors are taken.
const AGAIN: Duration = Duration::from_millis(20);

/// Serves connections until `closed`, and those that are there to their end. A head must arrive within `read`.
pub async fn serve(socket: TcpListener, routes: Router, read: Duration, closed: impl Future<Output = ()>) {
    let (open, places, mut closed) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MOST)), pin!(closed));
    loop {
        let wire = tokio::select! {
            wire = accepted(&socket) => wire,
            () = &mut closed => break,
        };
        // Events are small, and each is awaited.
        let _ = wire.set_nodelay(true);
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let service = TowerToHyperService::new(routes.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(read);
        let connection = open.watch(http.serve_connection(TokioIo::new(wire), service));
        tokio::spawn(async move {
            let _ = connection.await;
            drop(place);
        });
    }
    drop(socket);
    open.shutdown().await;
}

async fn accepted(socket: &TcpListener) -> TcpStream {
    loop {
        match socket.accept().await {
            Ok((wire, _)) => return wire,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
