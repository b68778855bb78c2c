use super::*;

fn state() -> State {
    State {
        mtu: 1420,
        path_mtu: 1500,
        rules_v4: vec![0, 32_766, 32_767],
        rules_v6: vec![0, 32_766],
        resolver: Some(Resolver::Resolved),
        firewall: Some(Firewall::Nft),
        ..State::default()
    }
}

fn nets(text: &str) -> Vec<IpNet> {
    text.split_whitespace().map(|net| net.parse().unwrap()).collect()
}

/// Steps as ip(8) and its like would be told them.
fn lines(settings: &Settings, state: &State) -> String {
    let line = |step: &Step| match step {
        Step::Address(address) => format!("address {address}"),
        Step::Mtu { mtu, before } => format!("mtu {mtu} was {before}"),
        Step::Up => "up".into(),
        Step::Dns { resolver, dns } => format!("dns {resolver:?} {:?} {:?} {:?}", dns.servers, dns.search, dns.only),
        Step::Firewall { firewall, family, addresses, mark } => format!("{firewall:?} {family:?} {addresses:?} {mark}"),
        Step::SrcValidMark => "src_valid_mark".into(),
        Step::Route { prefix, table, kind } => format!("{kind:?} {prefix} table {table}"),
        Step::Rule { family, priority, rule } => format!("{family:?} {priority}: {rule:?}"),
    };
    plan(settings, state).unwrap().iter().map(|step| line(step) + "\n").collect()
}

#[test]
fn a_few_networks_are_routed_in_the_main_table() {
    let settings = Settings {
        addresses: nets("10.0.0.2/24 10.0.0.2/24 fd00::2/64 192.0.2.9/32"),
        routes: nets("10.0.0.0/24 10.0.0.7/32 10.0.0.0/8 192.0.2.9/32 fd00::7/128 fd00::/16 10.0.0.0/8"),
        ..Settings::default()
    };
    let expected = "\
address 10.0.0.2/24
address fd00::2/64
address 192.0.2.9/32
up
Tunnel 192.0.2.9/32 table 254
Tunnel 10.0.0.0/8 table 254
Tunnel fd00::/16 table 254
";
    assert_eq!(lines(&settings, &state()), expected);
}

#[test]
fn default_routes_come_with_rules() {
    let settings = Settings {
        addresses: nets("10.0.0.2/24 fd00::2/64"),
        routes: nets("0.0.0.0/0 192.0.2.0/24 ::/0"),
        mtu: Some(1400),
        dns: Dns { servers: vec!["10.0.0.53".parse().unwrap()], search: vec!["corp".into()], only: Vec::new() },
        fwmark: 51_820,
        ..Settings::default()
    };
    let expected = "\
address 10.0.0.2/24
address fd00::2/64
mtu 1400 was 1420
up
dns Resolved [10.0.0.53] [\"corp\"] []
Tunnel 192.0.2.0/24 table 254
Tunnel 0.0.0.0/0 table 51820
Nft V4 [10.0.0.2] 51820
src_valid_mark
V4 32765: NotMarked(51820)
V4 32764: MainWithoutDefault
Tunnel ::/0 table 51820
Nft V6 [fd00::2] 51820
V6 32765: NotMarked(51820)
V6 32764: MainWithoutDefault
";
    assert_eq!(lines(&settings, &state()), expected);
    let there = State { mtu: 1400, up: true, src_valid_mark: true, rules_v4: vec![0, 100, 32_766], ..state() };
    let lines = lines(&settings, &there);
    assert!(!lines.contains("mtu") && !lines.contains("up\n") && !lines.contains("src_valid_mark"), "{lines}");
    assert!(lines.contains("V4 99: NotMarked(51820)\nV4 98: MainWithoutDefault"), "{lines}");
}

#[test]
fn excluded_networks_are_thrown_out_of_a_table() {
    let mut settings = Settings {
        addresses: nets("10.0.0.2/32"),
        routes: nets("10.0.0.0/8 10.9.0.0/16 fd00::/8"),
        excluded: nets("10.1.0.0/16 10.9.0.0/16"),
        fwmark: 9,
        ..Settings::default()
    };
    let expected = "\
address 10.0.0.2/32
up
Throw 10.1.0.0/16 table 9
Throw 10.9.0.0/16 table 9
Tunnel 10.0.0.0/8 table 9
Nft V4 [10.0.0.2] 9
src_valid_mark
V4 32765: NotMarked(9)
Tunnel fd00::/8 table 254
";
    assert_eq!(lines(&settings, &state()), expected);
    settings.table = Table::Number(1000);
    let expected = "\
address 10.0.0.2/32
up
Throw 10.1.0.0/16 table 1000
Throw 10.9.0.0/16 table 1000
Tunnel 10.0.0.0/8 table 1000
Tunnel fd00::/8 table 1000
";
    assert_eq!(lines(&settings, &state()), expected);
    settings.table = Table::Main;
    assert_eq!(plan(&settings, &state()).unwrap_err().kind(), ErrorKind::Invalid);
    settings.excluded.clear();
    assert!(lines(&settings, &state()).ends_with("Tunnel fd00::/8 table 254\n"));
    settings.table = Table::Off;
    assert_eq!(lines(&settings, &state()), "address 10.0.0.2/32\nup\n");
}

#[test]
fn the_mtu_leaves_room_for_headers() {
    let mtu = |path_mtu| {
        let steps = plan(&Settings::default(), &State { mtu: 1, path_mtu, ..state() }).unwrap();
        steps.into_iter().find_map(|step| if let Step::Mtu { mtu, .. } = step { Some(mtu) } else { None })
    };
    assert_eq!([mtu(1500), mtu(9000), mtu(600), mtu(0)], [Some(1420), Some(8920), Some(576), Some(576)]);
}

#[test]
fn what_is_missing_is_named() {
    let default = Settings { routes: nets("0.0.0.0/0"), fwmark: 5, ..Settings::default() };
    let error = |settings: &Settings, state: &State| plan(settings, state).unwrap_err();
    let no_mark = error(&Settings { fwmark: 0, ..default.clone() }, &state());
    assert!(no_mark.kind() == ErrorKind::Invalid && no_mark.to_string().contains("mark"), "{no_mark}");
    let no_firewall = error(&default, &State { firewall: None, ..state() });
    assert!(no_firewall.to_string().contains("neither nft nor iptables-restore"), "{no_firewall}");
    let mut dns = Dns { servers: vec!["192.0.2.1".parse().unwrap()], ..Dns::default() };
    let settings = |dns: &Dns| Settings { dns: dns.clone(), ..Settings::default() };
    let no_resolver = error(&settings(&dns), &State { resolver: None, ..state() });
    assert!(no_resolver.to_string().contains("there is no resolvconf"), "{no_resolver}");
    let resolvconf = State { resolver: Some(Resolver::Resolvconf("tun.".into())), ..state() };
    assert!(plan(&settings(&dns), &resolvconf).is_ok());
    dns.only = vec!["corp.example".into()];
    assert_eq!(error(&settings(&dns), &resolvconf).kind(), ErrorKind::Unsupported);
    assert!(plan(&settings(&dns), &state()).is_ok());
    dns.servers.clear();
    assert_eq!(plan(&settings(&dns), &resolvconf).unwrap(), plan(&Settings::default(), &resolvconf).unwrap());
    let no_room = State { rules_v4: vec![0, 1, 2], ..state() };
    assert_eq!(error(&default, &no_room).kind(), ErrorKind::Exists);
}
