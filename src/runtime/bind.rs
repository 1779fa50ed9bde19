//! Listening at a name: each of the addresses that it means, with one port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{HostPort, Listener, Runtime};

/// Listens at every address that `to` means here; they share the port, which is drawn if it is 0. An empty host is every interface.
///
/// # Errors
/// The first of the addresses that cannot be bound, if none can, or if the port is in use at one.
pub async fn bind<R: Runtime>(runtime: &R, to: &HostPort) -> io::Result<Vec<R::Listener>> {
    let mut sockets: Vec<R::Listener> = Vec::new();
    let mut failure = None;
    for mut address in addresses(runtime, to).await? {
        if let Some(first) = sockets.first() {
            address.set_port(first.local_addr().port());
        }
        match runtime.listen(address).await {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // A host without IPv6 still has localhost, and a name may have addresses that are not this machine's.
            Err(error) => {
                tracing::debug!(%address, %error, "not bound");
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

/// The addresses to bind for `to`.
///
/// # Errors
/// Of [`Runtime::resolve`].
pub async fn addresses<R: Runtime>(runtime: &R, to: &HostPort) -> io::Result<Vec<SocketAddr>> {
    const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    match to.host.as_str() {
        "" => Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, to.port))]),
        // Clients may try either, whatever the hosts file says.
        "localhost" => Ok(LOCALHOST.iter().map(|ip| SocketAddr::new(*ip, to.port)).collect()),
        _ => runtime.resolve(to).await,
    }
}
