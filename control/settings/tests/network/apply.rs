//! Settings around an interface that is there already.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use wg_embed::error::{Error, ErrorKind, Result};
use wg_embed_settings::{Applied, Dns, Linux, Programs, Settings, State, Step, System, Table, free_mark};

use crate::{
    netns::as_root,
    network::{Folder, Network},
};

/// A system of which one call fails.
struct Failing {
    linux: Linux,
    /// How many calls succeed before that.
    left: Arc<AtomicUsize>,
}

/// No call fails.
const NEVER: usize = usize::MAX;

impl Failing {
    fn new(programs: Programs, left: &Arc<AtomicUsize>) -> Self {
        Self { linux: linux(programs), left: left.clone() }
    }

    fn call(&mut self) -> Result<()> {
        match self.left.load(Ordering::Relaxed) {
            NEVER => Ok(()),
            0 => {
                self.left.store(NEVER, Ordering::Relaxed);
                Err(Error::new(ErrorKind::Permission, "not now"))
            }
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl System for Failing {
    fn state(&mut self, settings: &Settings) -> Result<State> {
        self.linux.state(settings)
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        self.call()?;
        self.linux.perform(step)
    }

    fn undo(&mut self, step: &Step) -> Result<()> {
        self.call()?;
        self.linux.undo(step)
    }
}

fn everything() -> Settings {
    let nets = |text: &str| text.split_whitespace().map(|net| net.parse().unwrap()).collect();
    Settings {
        addresses: nets("10.0.0.2/24 10.0.0.3/24 fd00::2/64"),
        routes: nets("0.0.0.0/0 ::/0 10.1.0.0/16"),
        excluded: nets("203.0.113.0/24"),
        mtu: Some(1300),
        dns: Dns { servers: vec!["10.0.0.53".parse().unwrap()], search: vec!["a.example".into()], only: Vec::new() },
        fwmark: 51_820,
        ..Settings::default()
    }
}

/// Settings of the other kind for each part.
fn others() -> Vec<Settings> {
    let nets = |text: &str| text.split_whitespace().map(|net| net.parse().unwrap()).collect();
    vec![
        Settings { mtu: Some(1400), ..everything() },
        Settings { addresses: nets("10.0.0.3/24"), routes: nets("10.0.0.0/8 0.0.0.0/0"), ..everything() },
        Settings { addresses: nets("10.5.0.1/16"), dns: Dns::default(), fwmark: 77, ..everything() },
        Settings { table: Table::Number(300), excluded: Vec::new(), ..everything() },
        Settings { addresses: nets("10.0.0.2/24"), routes: nets("10.1.0.0/16"), excluded: Vec::new(), ..everything() },
        Settings::default(),
    ]
}

/// Does something in a network with the interfaces `wgt0` and `wgt1`, and with a `resolvconf` that keeps a log.
fn in_network(test: impl FnOnce(&Network, &Folder)) {
    as_root(|| {
        let mut network = Network::new();
        network.tun("wgt0");
        network.tun("wgt1");
        let folder = Folder::new();
        folder.logging("resolvconf");
        test(&network, &folder);
    });
}

fn linux(programs: Programs) -> Linux {
    Linux::new("wgt0").unwrap().with_programs(programs)
}

#[test]
fn a_step_that_fails_leaves_the_network_as_it_was() {
    in_network(|network, folder| {
        let before = network.settings();
        let left = Arc::new(AtomicUsize::new(NEVER));
        let start = |calls| {
            let (programs, left) = (folder.programs(), left.clone());
            left.store(calls, Ordering::Relaxed);
            network.netns.run(move || Applied::new(Failing::new(programs, &left), &everything()))
        };
        for calls in 0.. {
            let Ok(applied) = start(calls) else {
                network.becomes(&before, &format!("{calls} calls succeeded"));
                continue;
            };
            assert_eq!(applied.steps().len(), calls);
            // A call that undoes something fails, and the others are made.
            left.store(0, Ordering::Relaxed);
            let error = network.netns.run(move || applied.undo().unwrap_err());
            assert_eq!(error.to_string(), "not now");
            break;
        }
        let log = folder.log();
        assert_eq!(log.matches("resolvconf -a wgt0").count(), log.matches("resolvconf -d wgt0 -f").count(), "{log}");
    });
}

#[test]
fn an_update_leads_where_a_start_would() {
    in_network(|network, folder| {
        let before = network.settings();
        let left = Arc::new(AtomicUsize::new(NEVER));
        let start = |settings: &Settings| {
            let (programs, left, settings) = (folder.programs(), left.clone(), settings.clone());
            left.store(NEVER, Ordering::Relaxed);
            let applied = network.netns.run(move || Applied::new(Failing::new(programs, &left), &settings).unwrap());
            network.settle();
            (applied, network.settings())
        };
        let undo = |applied: Applied<Failing>| {
            left.store(NEVER, Ordering::Relaxed);
            network.netns.run(move || applied.undo().unwrap());
            network.becomes(&before, "undone");
        };
        for other in others() {
            let (applied, expected) = start(&other);
            undo(applied);
            let (mut applied, held) = start(&everything());
            // The update fails at each of its calls in turn, until it needs no more of them.
            for calls in 0.. {
                left.store(calls, Ordering::Relaxed);
                let (again, other) = (applied, other.clone());
                let (back, updated) = network.netns.run(move || {
                    let mut applied = again;
                    let updated = applied.update(&other).is_ok();
                    (applied, updated)
                });
                applied = back;
                if updated {
                    break;
                }
                network.becomes(&held, &format!("{calls} calls succeeded"));
            }
            network.becomes(&expected, &format!("{other:?}"));
            undo(applied);
        }
    });
}

#[test]
fn packets_go_where_the_settings_say() {
    in_network(|network, folder| {
        let way = |to: &str| {
            let text = network.netns.ip(&format!("route get {to}"));
            let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
            words.nth(1).unwrap().to_owned()
        };
        let programs = folder.programs();
        let applied = network.netns.run(|| Applied::new(linux(programs), &everything()).unwrap());
        network.settle();
        for (to, interface) in [
            ("198.18.0.1", "wgt0"),
            ("10.1.0.1", "wgt0"),
            ("2001:db8:9::1", "wgt0"),
            ("203.0.113.1", "eth0"),
            ("192.0.2.7", "eth0"),
            ("198.18.0.1 mark 51820", "eth0"),
            ("2001:db8:9::1 mark 51820", "eth0"),
        ] {
            assert_eq!(way(to), interface, "{to}");
        }
        // The mark is taken, and a second tunnel gets another one.
        assert_eq!(network.netns.run(|| free_mark().unwrap()), 51_821);
        network.netns.run(move || drop(applied));
        assert_eq!(way("198.18.0.1"), "eth0");
        assert_eq!(network.netns.run(|| free_mark().unwrap()), 51_820);
    });
}

#[test]
fn two_tunnels_end_in_any_order() {
    in_network(|network, _| {
        let before = network.settings();
        let valid = |network: &Network| {
            let setting = network.settings().into_iter().find(|(name, _)| name == "src_valid_mark").unwrap().1;
            setting.trim().to_owned()
        };
        for first_ends_first in [true, false] {
            let start = |name: &'static str, fwmark, address: &'static str| {
                network.netns.run(move || {
                    let settings = Settings {
                        addresses: vec![address.parse().unwrap()],
                        routes: vec!["0.0.0.0/0".parse().unwrap()],
                        fwmark,
                        ..Settings::default()
                    };
                    Applied::new(Linux::new(name).unwrap(), &settings).unwrap()
                })
            };
            let first = start("wgt0", 1001, "10.0.0.1/32");
            let second = start("wgt1", 1002, "10.0.0.2/32");
            let (one, other) = if first_ends_first { (first, second) } else { (second, first) };
            network.netns.run(move || one.undo().unwrap());
            assert_eq!(valid(network), "1");
            let rules = network.netns.ip("-4 rule show");
            assert_eq!(rules.matches("suppress_prefixlength 0").count(), 1, "{rules}");
            network.netns.run(move || other.undo().unwrap());
            network.netns.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/src_valid_mark", "0").unwrap());
            network.becomes(&before, "both have ended");
        }
    });
}

#[test]
fn what_the_system_refuses_is_named() {
    in_network(|network, folder| {
        let before = network.settings();
        let refused = |settings: Settings, programs: Programs| {
            let error = network.netns.run(move || Applied::new(linux(programs), &settings).unwrap_err().to_string());
            network.becomes(&before, &error);
            error
        };
        folder.program("nft", "echo no such luck >&2; exit 3");
        let error = refused(everything(), folder.programs());
        assert_eq!(error, "cannot set the firewall for wgt0 by nft: nft: exit status: 3: no such luck");
        folder.program("resolvconf", "echo what; exit 1");
        let error = refused(everything(), folder.programs());
        assert_eq!(error, "cannot set DNS for wgt0 by resolvconf: resolvconf: exit status: 1: what");
        let without = |settings| refused(settings, Programs::in_path("/nonexistent", PathBuf::from("/nonexistent")));
        let error = without(everything());
        assert!(error.contains("there is no resolvconf"), "{error}");
        let error = without(Settings { dns: Dns::default(), ..everything() });
        assert!(error.contains("there is neither nft nor iptables-restore"), "{error}");
        let error = without(Settings { mtu: Some(20), ..Settings::default() });
        assert!(error.contains("cannot set the MTU of wgt0 to 20: "), "{error}");
        let error = network.netns.run(|| Linux::new("wgt7").unwrap_err());
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "there is no interface wgt7"));
        for name in ["", "a/b", "a b", "..", "-x", "a:b", "a%b", "sixteen-bytes-xx", "\"", "a\n"] {
            let error = network.netns.run(move || Linux::new(name).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
        }
    });
}

#[test]
fn resolved_is_preferred_where_it_runs() {
    in_network(|network, folder| {
        folder.logging("resolvectl");
        let settings = Settings {
            dns: Dns {
                servers: vec![IpAddr::from([10, 0, 0, 53])],
                search: Vec::new(),
                only: vec!["corp.example".into()],
            },
            ..Settings::default()
        };
        std::fs::write(folder.file("resolved"), "").unwrap();
        let programs = folder.programs();
        let applied = network.netns.run(move || Applied::new(linux(programs), &settings).unwrap());
        let expected =
            "resolvectl dns wgt0 10.0.0.53\nresolvectl domain wgt0 ~corp.example\nresolvectl default-route wgt0 no\n";
        assert_eq!(folder.log(), expected);
        network.netns.run(move || applied.undo().unwrap());
        assert_eq!(folder.log(), "resolvectl revert wgt0\n");
        // A part of it fails: nothing of it stays.
        let log = folder.file("log");
        folder.program("resolvectl", &format!("echo \"$1\" >>{}; [ \"$1\" != domain ]", log.display()));
        let programs = folder.programs();
        let settings = everything();
        network.netns.run(move || Applied::new(linux(programs), &settings).unwrap_err());
        assert_eq!(folder.log(), "dns\ndomain\nrevert\n");
    });
}

#[test]
fn iptables_serves_where_there_is_no_nft() {
    in_network(|network, folder| {
        folder.logging("iptables-restore");
        folder.logging("ip6tables-restore");
        let comment = "-m comment --comment \"wg-embed rule for wgt0\"";
        for name in ["iptables-save", "ip6tables-save"] {
            folder.program(name, &format!("echo '*raw'; echo '-A PREROUTING -j DROP {comment}'; echo COMMIT"));
        }
        folder.program("sh", "exec /bin/sh \"$@\"");
        folder.program("cat", "exec /bin/cat \"$@\"");
        let programs = Programs::in_path(folder.file("bin"), folder.file("resolved"));
        let applied = network
            .netns
            .run(|| Applied::new(linux(programs), &Settings { dns: Dns::default(), ..everything() }).unwrap());
        let added = folder.log();
        assert!(added.starts_with("iptables-restore -n\n*raw\n-I PREROUTING ! -i wgt0 -d 10.0.0.2 "), "{added}");
        assert!(added.contains("ip6tables-restore -n\n*raw\n-I PREROUTING ! -i wgt0 -d fd00::2 "), "{added}");
        network.netns.run(move || applied.undo().unwrap());
        let deletion = format!("*raw\n-D PREROUTING -j DROP {comment}\nCOMMIT\n");
        assert_eq!(folder.log(), format!("ip6tables-restore -n\n{deletion}iptables-restore -n\n{deletion}"));
    });
}
