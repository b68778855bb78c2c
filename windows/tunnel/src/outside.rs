//! The network outside of the tunnel: which default routes there are, and which one is used.

use wg_embed::bind::Family;

/// A default route of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The family of its packets.
    pub family: Family,
    /// The LUID of the interface.
    pub luid: u64,
    /// The index of the interface, never 0.
    pub index: u32,
    /// The metric of the route plus that of the interface: the smallest is used.
    pub metric: u32,
    /// The MTU of the interface, in bytes.
    pub mtu: u32,
    /// Whether the interface is up.
    pub up: bool,
}

/// The default routes that are used without the tunnel. Equal values mean: nothing has changed for the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// That of IPv4.
    pub v4: Option<DefaultRoute>,
    /// That of IPv6.
    pub v6: Option<DefaultRoute>,
}

impl Outside {
    /// Chooses from all default routes of the system: of those whose interface is up and is not `tunnel`, that with the
    /// smallest metric, and of several the first.
    #[must_use]
    pub fn choose(routes: &[DefaultRoute], tunnel: u64) -> Self {
        let best = |family| {
            let usable = |route: &&DefaultRoute| route.family == family && route.up && route.luid != tunnel;
            routes.iter().filter(usable).min_by_key(|route| route.metric).copied()
        };
        Self { v4: best(Family::V4), v6: best(Family::V6) }
    }

    /// Returns the route of a family.
    #[must_use]
    pub const fn of(&self, family: Family) -> Option<DefaultRoute> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Returns the smaller MTU of the two: the tunnel's own packets may take either. `None` without a default route.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        [self.v4, self.v6].into_iter().flatten().map(|route| route.mtu).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(family: Family, luid: u64, metric: u32) -> DefaultRoute {
        DefaultRoute { family, luid, index: luid as u32, metric, mtu: 1500, up: true }
    }

    #[test]
    fn the_smallest_metric_is_used_and_the_tunnel_never() {
        let tunnel = route(Family::V4, 9, 0);
        let (wire, radio, six) = (
            route(Family::V4, 1, 25),
            route(Family::V4, 2, 50),
            DefaultRoute { mtu: 1280, ..route(Family::V6, 2, 90) },
        );
        let outside = Outside::choose(&[tunnel, radio, wire, six], 9);
        assert_eq!(outside, Outside { v4: Some(wire), v6: Some(six) });
        assert_eq!(outside.mtu(), Some(1280));
        let unplugged = DefaultRoute { up: false, ..wire };
        assert_eq!(Outside::choose(&[tunnel, radio, unplugged], 9), Outside { v4: Some(radio), v6: None });
        assert_eq!(Outside::choose(&[tunnel], 9), Outside::default());
        assert_eq!(Outside::default().mtu(), None);
    }

    #[test]
    fn of_equal_routes_the_first_is_used() {
        let routes = [route(Family::V4, 1, 25), route(Family::V4, 2, 25)];
        assert_eq!(Outside::choose(&routes, 9).v4, Some(routes[0]));
    }
}
