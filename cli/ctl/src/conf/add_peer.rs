//! `conf add-peer`: appends a peer to a file, and leaves the rest unchanged byte for byte.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use wg_embed::{
    config::{
        AllowedIpUpdate, PeerUpdate, Update,
        wgquick::{self, Conf},
    },
    key::PublicKey,
};
use zeroize::Zeroizing;

use super::read;
use crate::{
    arguments::AddPeer,
    failure::{Failure, Result},
    keys,
    output::complain,
};

pub(crate) fn run(arguments: &AddPeer) -> Result<()> {
    let peer = peer_of(arguments)?;
    // The target, if the path is a link.
    let path = fs::canonicalize(&arguments.file)
        .map_err(|error| Failure::io(format_args!("cannot open {}", arguments.file.display()), &error))?;
    let before = read(&path)?;
    let after = with_peer(&before, &peer, arguments.name.as_deref())
        .map_err(|failure| Failure { text: format!("{}: {}", path.display(), failure.text), ..failure })?;
    replace(&path, &after).map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))?;
    complain(&format!("added a peer to {}; apply it with `wg-embedctl conf sync`", path.display()));
    Ok(())
}

fn peer_of(arguments: &AddPeer) -> Result<PeerUpdate> {
    let named = |option: &'static str| move |e: wg_embed::Error| Failure::usage(format!("--{option}: {e}"));
    let key = PublicKey::from_base64(&arguments.public_key).map_err(named("public-key"))?;
    let mut peer = PeerUpdate::new(key);
    if let Some(file) = &arguments.preshared_key {
        peer.preshared_key = Some(Box::new(keys::from_file(file)?));
    }
    if let Some(endpoint) = &arguments.endpoint {
        peer.endpoint = Some(endpoint.parse().map_err(named("endpoint"))?);
    }
    peer.persistent_keepalive = arguments.persistent_keepalive;
    let change = |net: &ipnet::IpNet| AllowedIpUpdate::add(*net);
    peer.allowed_ips = arguments.allowed_ips.iter().map(change).collect();
    let bad_name = arguments.name.as_deref().is_some_and(|name| name.contains(char::is_control));
    if bad_name { Err(Failure::usage("--name: has a control character")) } else { Ok(peer) }
}

/// Returns the bytes of the file with one more peer.
fn with_peer(before: &[u8], peer: &PeerUpdate, name: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    let checked = wgquick::check(before)?;
    if !checked.problems.is_empty() {
        return Err(Failure::new("the file has problems; `wg-embedctl conf check` shows them"));
    }
    let known = checked.conf.update.peers.iter().zip(&checked.peer_lines);
    if let Some((_, line)) = known.clone().find(|(known, _)| known.public_key == peer.public_key) {
        return Err(Failure::new(format!("the peer of line {line} has this public key")));
    }
    for change in &peer.allowed_ips {
        if let Some((_, line)) = known.clone().find(|(known, _)| known.allowed_ips.contains(change)) {
            return Err(Failure::new(format!("the peer of line {line} has {} already", change.prefix)));
        }
    }
    if before.contains(&0) {
        return Err(Failure::new("the file is UTF-16; save it as UTF-8 first"));
    }
    let one = Conf { update: Update { peers: vec![peer.clone()], ..Update::default() }, ..Conf::default() };
    let text = one.to_text()?;
    let section = text.split_once("[Peer]").map_or("", |(_, section)| section);
    let line_end = if before.windows(2).any(|pair| pair == b"\r\n") { "\r\n" } else { "\n" };
    let comment = name.map(|name| format!("# Name = {name}\n")).unwrap_or_default();
    let mut after = Zeroizing::new(Vec::with_capacity(before.len() + 2 * section.len() + 2 * comment.len() + 64));
    after.extend_from_slice(before);
    if !before.ends_with(b"\n") {
        after.extend_from_slice(line_end.as_bytes());
    }
    for part in ["\n[Peer]\n", &comment, section.trim_start_matches('\n')] {
        for line in part.split_inclusive('\n') {
            after.extend_from_slice(line.trim_end_matches('\n').as_bytes());
            after.extend_from_slice(line_end.as_bytes());
        }
    }
    // Checks that the file has the intended meaning.
    let mut expected = checked.conf.clone();
    expected.update.peers.push(PeerUpdate { replace_allowed_ips: true, ..peer.clone() });
    if Conf::from_bytes(&after)? == expected { Ok(after) } else { Err(Failure::new("the peer cannot be written")) }
}

/// Replaces a file atomically, keeping its mode and owner: readers see the old contents or the new ones.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let metadata = fs::metadata(path)?;
    // Created with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".wg-embedctl-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
        }
    }
    file.as_file().set_permissions(metadata.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    #[cfg(unix)]
    fs::File::open(directory)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn peer() -> PeerUpdate {
        let mut peer = PeerUpdate::new(PublicKey::from_base64(KEY).unwrap());
        peer.endpoint = Some("vpn.example.com:51820".parse().unwrap());
        peer.allowed_ips = vec![AllowedIpUpdate::add("10.0.0.2/32".parse().unwrap())];
        peer
    }

    #[test]
    fn what_was_there_stays_byte_for_byte() {
        for (before, line_end) in [
            ("# \u{e4}\n[Interface] # x\n  MTU=1420\n", "\n"),
            ("[Interface]", "\n"),
            ("\u{feff}[Interface]\r\n# end", "\r\n"),
        ] {
            let after = with_peer(before.as_bytes(), &peer(), Some("phone")).unwrap();
            let end = if before.ends_with('\n') { "" } else { line_end };
            let section = format!(
                "\n[Peer]\n# Name = phone\nPublicKey = {KEY}\nAllowedIPs = 10.0.0.2/32\n\
                 Endpoint = vpn.example.com:51820\n"
            );
            let expected = format!("{before}{end}{}", section.replace('\n', line_end));
            assert_eq!(str::from_utf8(&after).unwrap(), expected);
        }
    }

    #[test]
    fn what_would_take_from_others_is_refused() {
        let once = with_peer(b"[Interface]\n", &peer(), None).unwrap();
        let refused = |peer: &PeerUpdate| with_peer(&once, peer, None).unwrap_err().text;
        assert_eq!(refused(&peer()), "the peer of line 3 has this public key");
        let other = PeerUpdate { public_key: PublicKey::from_bytes([7; 32]), ..peer() };
        assert_eq!(refused(&other), "the peer of line 3 has 10.0.0.2/32 already");
        assert!(with_peer(b"[Interfac]\n", &peer(), None).unwrap_err().text.contains("has problems"));
    }
}
