// SPDX-License-Identifier: Apache-2.0
//! A TCP proxy that misbehaves on command, for the faults that a network has.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Cuts connections after so many bytes of answers, so many times.
#[derive(Clone, Default)]
pub struct Faults {
    /// Connections still to be cut.
    pub cuts: Arc<AtomicU64>,
    /// Bytes of answers before a cut; 0 cuts before the first.
    pub after: Arc<AtomicU64>,
}

/// Starts a proxy before `target`; it ends with the runtime.
pub async fn start(target: SocketAddr, faults: Faults) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, target, faults.clone()));
        }
    });
    address
}

async fn carry(client: TcpStream, target: SocketAddr, faults: Faults) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (mut buffer, mut carried) = (vec![0; 64 << 10], 0);
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        let cut = carried + length as u64 > faults.after.load(SeqCst)
            && faults.cuts.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        if cut {
            let rest = usize::try_from(faults.after.load(SeqCst).saturating_sub(carried)).unwrap();
            let _ = to_client.write_all(&buffer[..rest.min(length)]).await;
            break;
        }
        carried += length as u64;
        if to_client.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    upward.abort();
}
