//! The stack's functions for look-ups and dials.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use wg_embed::{random::Random, sync::read, time::Instant};

use super::{
    network::{Datagrams, Network, Stream},
    resolver::Resolver,
};
use crate::{
    Netstack, TcpStream, UdpSocket,
    dial::bind_connected,
    notify::Notify,
    stack::{Shared, Timed, Timer},
    task::Waker,
};

impl Network for Netstack {
    type Udp = UdpSocket;
    type Tcp = TcpStream;
    type Alarm = Alarm;

    fn is_forked(&self) -> bool {
        self.0.is_forked()
    }
    fn now(&self) -> Instant {
        self.0.now()
    }
    fn random(&self) -> &dyn Random {
        &*self.0.options.random
    }
    fn alarm(&self, at: Instant, waker: &Waker) -> Alarm {
        let wake = Arc::new(Wake { timer: Timer::new(), waker: waker.clone() });
        self.0.schedule(&wake.timer, at, || Arc::<Wake>::clone(&wake));
        Alarm { shared: Arc::clone(&self.0), wake }
    }
    fn resolver(&self) -> &Resolver<Self> {
        &self.0.resolver
    }
    fn servers(&self) -> Vec<IpAddr> {
        read(&self.0.network).dns.clone()
    }
    fn has_family(&self, ipv6: bool) -> bool {
        read(&self.0.network).addresses.iter().any(|address| address.is_ipv6() == ipv6)
    }
    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        bind_connected(self, to)
    }
    fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.start_tcp(to)
    }
}

/// A deadline in the stack's set, which is removed when this is dropped.
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
}

/// The entry in the set. It does not keep the task alive that it wakes.
struct Wake {
    timer: Timer,
    waker: Waker,
}

impl Timed for Wake {
    fn timer(&self) -> &Timer {
        &self.timer
    }
    fn due(self: Arc<Self>, _shared: &Arc<Shared>, _now: Instant) {
        self.waker.notify();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            self.shared.unschedule(&self.wake.timer);
        }
    }
}

impl Datagrams for UdpSocket {
    fn try_send(&self, data: &[u8]) -> io::Result<()> {
        self.try_send(data, None).map(drop)
    }
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_recv(buf).map(|(len, _)| len)
    }
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.set_notify(notify);
    }
}

impl Stream for TcpStream {
    fn connected(&self) -> io::Result<()> {
        self.try_established()
    }
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_read(buf)
    }
    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.try_write(data)
    }
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.set_notify(notify);
    }
    fn reset(&self) {
        if !self.is_forked() {
            self.reset();
        }
    }
}
