//! Network settings: which are configured by the engine or asked of the manager, and in which order.

use super::{
    common::PATIENCE,
    scripted::{ASK, Did, SLOW, agree, asking, plan, script, serve, settings, start, started, up},
};
use std::{sync::mpsc, time::Duration};
use wg_embed_manager::{
    messages::{
        GetPeerUpdate, NetworkSettingsRequest, Rpc, manager_message, network_settings_request::DnsSettings,
        tunnel_message,
    },
    tunnel::{Change, Plan, Settings},
};

#[test]
fn a_second_start_configures_again() {
    let mut served = serve(Settings::Own, script(Ok(Plan { settings: vec![settings(1), settings(2)], ..plan() })));
    served.ask(start());
    assert_eq!(served.response(), started(""));
    served.update();
    served.ask(start());
    assert_eq!(served.response(), started(""));
    // Both parts at once.
    let configured = || Did::Configured(2);
    let expected = [Did::Opened, configured(), Did::Started(Some(7), 5), configured(), Did::Stopped];
    assert_eq!(served.stop(), expected);
}

#[test]
fn settings_that_are_refused_fail_the_start() {
    let mut served = serve(Settings::Own, script(Ok(Plan { settings: vec![settings(666)], ..plan() })));
    served.ask(start());
    assert_eq!(served.response(), started("failed to start connection: network settings failed: no such number"));
    assert_eq!(served.stop(), [Did::Opened, Did::Configured(666)]);
    // A manager that does not answer.
    let silent = Settings::Ask { timeout: Duration::from_millis(10) };
    let mut served = serve(silent, script(Ok(Plan { settings: vec![settings(1)], ..plan() })));
    served.ask(start());
    assert!(matches!(served.next().1, tunnel_message::Msg::NetworkSettings(_)));
    assert_eq!(served.response(), started("failed to start connection: network settings failed: no response in time"));
    assert_eq!(served.stop(), [Did::Opened]);
}

#[test]
fn settings_that_are_gone_are_asked_to_be_empty() {
    let dns = DnsSettings { servers: vec!["10.0.0.53".into()], ..DnsSettings::default() };
    let first = NetworkSettingsRequest { dns_settings: Some(dns), ..settings(1) };
    let plan = Plan { settings: vec![first.clone()], ..plan() };
    let (mut served, asked) = asking(ASK, script(Ok(plan)));
    assert_eq!(asked, first);
    served.send(Change { settings: vec![settings(2)], ..Change::default() });
    let (rpc, tunnel_message::Msg::NetworkSettings(request)) = served.next() else { panic!() };
    assert_eq!(request, NetworkSettingsRequest { dns_settings: Some(DnsSettings::default()), ..settings(2) });
    agree(&mut served, rpc);
    assert_eq!(served.stop(), [Did::Stopped]);
}

#[test]
fn a_manager_is_asked_if_the_engine_cannot() {
    let either = Settings::OwnOrAsk { timeout: PATIENCE };
    let with_settings = || script(Ok(Plan { settings: vec![settings(1)], ..plan() }));
    let (mut script, did) = with_settings();
    script.configures = false;
    let (served, request) = asking(either, (script, did));
    assert_eq!(request, settings(1));
    assert_eq!(served.stop(), [Did::Stopped]);
    let mut served = serve(either, with_settings());
    served.ask(start());
    assert_eq!(served.response(), started(""));
    served.update();
    let expected = [Did::Opened, Did::Configured(1), Did::Started(Some(7), 5), Did::Stopped];
    assert_eq!(served.stop(), expected);
}

#[test]
fn the_newest_settings_are_applied_last() {
    let (script, did) = script(Ok(plan()));
    let (open, slow) = mpsc::channel();
    *script.slow.lock().unwrap() = Some(slow);
    let mut served = up((script, did));
    served.send(Change { settings: vec![settings(SLOW)], ..Change::default() });
    assert_eq!(served.did(), Did::Configured(SLOW));
    for mtu in 1..=3 {
        served.send(Change { settings: vec![settings(mtu)], ..Change::default() });
    }
    // Also another start waits for its turn.
    served.ask(start());
    let start = served.last_id;
    served.ask(manager_message::Msg::GetPeerUpdate(GetPeerUpdate {}));
    served.response();
    assert!(served.did.try_recv().is_err(), "one after the other");
    open.send(()).unwrap();
    assert_eq!(served.next(), (Some(Rpc { msg_id: 0, response_to: start }), started("")));
    assert_eq!(served.did(), Did::Configured(3));
    assert_eq!(served.stop(), [Did::Stopped]);
    // Without a start.
    let served = up(self::script(Ok(self::plan())));
    served.send(Change { settings: vec![settings(4)], ..Change::default() });
    served.send(Change { settings: vec![settings(5)], ..Change::default() });
    while served.did() != Did::Configured(5) {}
    assert_eq!(served.stop(), [Did::Stopped]);
}
