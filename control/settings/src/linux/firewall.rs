//! The firewall for a default route: packets to the interface's addresses from other interfaces are dropped, and
//! replies to the tunnel's own packets get the mark of these.

use std::net::IpAddr;

use wg_embed::error::{Error, Result};

use super::programs::Programs;
use crate::plan::{Family, Firewall};

/// Returns the program that sets the firewall here.
pub(super) fn program(programs: &Programs) -> Option<Firewall> {
    if programs.has("nft") {
        Some(Firewall::Nft)
    } else {
        programs.has("iptables-restore").then_some(Firewall::Iptables)
    }
}

pub(super) fn add(
    programs: &Programs,
    interface: &str,
    firewall: Firewall,
    family: Family,
    addresses: &[IpAddr],
    mark: u32,
) -> Result<()> {
    match firewall {
        Firewall::Nft => programs.run("nft", ["-f", "-"], &nft(interface, family, addresses, mark)),
        Firewall::Iptables => {
            programs.run(format!("{}-restore", iptables(family)), ["-n"], &insertions(interface, addresses, mark)?)
        }
    }
    .map(drop)
}

/// Removes existing rules.
pub(super) fn remove(programs: &Programs, interface: &str, firewall: Firewall, family: Family) -> Result<()> {
    match firewall {
        Firewall::Nft => programs.run("nft", ["-f", "-"], &without(&table(interface, family))).map(drop),
        Firewall::Iptables => {
            let rules = programs.run(format!("{}-save", iptables(family)), [""; 0], "")?;
            match deletions(interface, &rules) {
                Some(text) => programs.run(format!("{}-restore", iptables(family)), ["-n"], &text).map(drop),
                None => Ok(()),
            }
        }
    }
}

/// Returns the name of the nftables table of an interface. Fewer characters are valid there than in the name of an
/// interface.
fn table(interface: &str, family: Family) -> String {
    let mut name = format!("{} wg-embed-", keyword(family));
    for c in interface.chars() {
        match c {
            '=' => name.push_str(".3d"),
            '+' => name.push_str(".2b"),
            '.' => name.push_str(".2e"),
            c => name.push(c),
        }
    }
    name
}

const fn keyword(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Returns the commands to remove a table, which may not exist.
fn without(table: &str) -> String {
    format!("add table {table}\ndelete table {table}\n")
}

/// Returns the commands to set the rules, which replace those of an earlier run.
fn nft(interface: &str, family: Family, addresses: &[IpAddr], mark: u32) -> String {
    let (table, ip) = (table(interface, family), keyword(family));
    let drops: String = addresses
        .iter()
        .map(|address| format!("    iifname != \"{interface}\" {ip} daddr {address} fib saddr type != local drop\n"))
        .collect();
    let chain = |name, hook: &str, priority, rules: &str| {
        format!("  chain {name} {{\n    type filter hook {hook} priority {priority}; policy accept;\n{rules}  }}\n")
    };
    [
        &without(&table),
        &format!("table {table} {{\n"),
        &chain("preraw", "prerouting", -300, &drops),
        &chain("premangle", "prerouting", -150, "    meta l4proto udp meta mark set ct mark\n"),
        &chain(
            "postmangle",
            "postrouting",
            -150,
            &format!("    meta l4proto udp meta mark {mark} ct mark set meta mark\n"),
        ),
        "}\n",
    ]
    .concat()
}

const fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// Returns the comment that identifies our rules.
fn comment(interface: &str) -> String {
    format!("-m comment --comment \"wg-embed rule for {interface}\"")
}

/// Returns the rules for `iptables-restore`.
fn insertions(interface: &str, addresses: &[IpAddr], mark: u32) -> Result<String> {
    if interface.ends_with('+') {
        return Err(Error::invalid("iptables takes a + at the end of an interface's name for any end"));
    }
    let comment = comment(interface);
    let mut text = String::from("*raw\n");
    for address in addresses {
        text +=
            &format!("-I PREROUTING ! -i {interface} -d {address} -m addrtype ! --src-type LOCAL -j DROP {comment}\n");
    }
    text += &format!(
        "COMMIT\n*mangle\n-I POSTROUTING -p udp -m mark --mark {mark} -j CONNMARK --save-mark {comment}\n\
         -I PREROUTING -p udp -j CONNMARK --restore-mark {comment}\nCOMMIT\n"
    );
    Ok(text)
}

/// Returns the deletions of our rules, from all rules as printed by `iptables-save`; `None` without such rules.
fn deletions(interface: &str, rules: &str) -> Option<String> {
    let comment = comment(interface);
    let mut found = false;
    let mut text = String::new();
    for line in rules.lines() {
        let rule = line.strip_prefix("-A ").filter(|rule| rule.contains(&comment));
        if let Some(rule) = rule {
            found = true;
            text += &format!("-D {rule}\n");
        } else if line.starts_with('*') || line == "COMMIT" {
            text += &format!("{line}\n");
        }
    }
    found.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_differ_as_those_of_interfaces_do() {
        assert_eq!(table("wg0", Family::V4), "ip wg-embed-wg0");
        assert_eq!(table("a+b=c.d_e-f", Family::V6), "ip6 wg-embed-a.2bb.3dc.2ed_e-f");
    }

    #[test]
    fn iptables_deletes_what_it_inserted() {
        let comment = "-m comment --comment \"wg-embed rule for wg0\"";
        let inserted = insertions("wg0", &["10.0.0.1".parse().unwrap()], 5).unwrap();
        let expected = format!(
            "*raw\n-I PREROUTING ! -i wg0 -d 10.0.0.1 -m addrtype ! --src-type LOCAL -j DROP {comment}\nCOMMIT\n\
             *mangle\n-I POSTROUTING -p udp -m mark --mark 5 -j CONNMARK --save-mark {comment}\n\
             -I PREROUTING -p udp -j CONNMARK --restore-mark {comment}\nCOMMIT\n"
        );
        assert_eq!(inserted, expected);
        assert!(insertions("wg+", &[], 5).is_err());
        let saved = "# x\n*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DROP\n".to_owned()
            + &inserted.replace("*raw\n", "").replace("-I ", "-A ");
        assert_eq!(deletions("wg0", &saved).unwrap(), inserted.replace("-I ", "-D "));
        assert_eq!(deletions("wg", &saved), None);
    }
}
