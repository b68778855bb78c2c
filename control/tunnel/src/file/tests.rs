use super::*;
use std::{
    collections::HashSet,
    process,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};
use wg_embed_manager::tunnel::{Agent, Change, Id};

const PATIENCE: Duration = Duration::from_secs(300);
const KEYS: [&str; 3] = [
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
    "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
];

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wg-embed-file-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("wg0.conf")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(peers: &[(usize, &str)]) -> String {
    let mut text = "[Interface]\nAddress = 10.0.0.1\n".to_owned();
    for (number, name) in peers {
        let key = KEYS[*number];
        text += &format!(
            "[Peer]\n# Name = {name}\nPublicKey = {key}\nAllowedIPs = 10.0.0.1{number}/32, 10.9.{number}.0/24\n"
        );
    }
    text
}

fn resolve(path: &Path) -> (Result<Plan<Configuration>, String>, Receiver<Change<Configuration>>) {
    let (sender, receiver) = mpsc::channel();
    let changes = Changes::new(move |change| sender.send(change).is_ok());
    let root = if cfg!(windows) { "/" } else { "" };
    let coder_url = format!("file://{root}{}", with_slashes(path));
    (FileSource.resolve(&StartRequest { coder_url, ..StartRequest::default() }, changes), receiver)
}

/// A path as a URL has it, also on Windows.
fn with_slashes(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

fn names(agents: &[Agent]) -> Vec<&str> {
    agents.iter().map(|agent| agent.name.as_str()).collect()
}

#[test]
fn urls_name_files() {
    // On Windows only a path with a drive is absolute.
    let (in_url, drive) = if cfg!(windows) { ("/C:", "C:") } else { ("", "") };
    for (begin, end, expected) in [
        ("file://", "/etc/wireguard/wg0.conf", "/etc/wireguard/wg0.conf"),
        ("FILE://localhost", "/a", "/a"),
        ("file:", "/a%20b/%C3%BC.conf", "/a b/\u{fc}.conf"),
    ] {
        assert_eq!(path(&format!("{begin}{in_url}{end}")), Ok(PathBuf::from(format!("{drive}{expected}"))));
    }
    for url in [
        "https://example.com",
        "file://host/a",
        "file:a",
        "file:%C3%BC:/a",
        "file:",
        "file:///",
        "file:///a?b",
        "file:///%ff",
        "file://a",
    ] {
        assert!(path(url).is_err(), "{url}");
    }
}

#[test]
fn peers_are_agents() {
    let directory = Directory::new();
    fs::write(directory.file(), text(&[(0, "laptop"), (1, "Desk top"), (2, "laptop")])).unwrap();
    let (plan, _changes) = resolve(&directory.file());
    let plan = plan.unwrap();
    assert_eq!((plan.workspaces[0].name.as_str(), plan.workspaces.len(), plan.settings.len()), ("wg0", 1, 1));
    assert_eq!(names(&plan.agents)[..2], ["laptop", "Desk top"]);
    assert!(plan.agents[2].name.starts_with("laptop-"));
    assert_eq!(plan.agents[1].fqdn, ["desk-top"]);
    assert_eq!(plan.agents[1].addresses, ["10.0.0.11".parse::<std::net::IpAddr>().unwrap()]);
    assert!(plan.agents.iter().all(|agent| agent.workspace == plan.workspaces[0].id));
    let ids: HashSet<Id> = plan.agents.iter().map(|agent| agent.id).collect();
    assert_eq!((ids.len(), plan.configuration.peers.len()), (3, 3));
    let expected = [188, 80, 232, 132];
    assert_eq!(plan.agents[0].id.0[..4], expected, "ids of a key must never change");
    // A name given to a peer does not change its id.
    fs::write(directory.file(), text(&[(0, "other")])).unwrap();
    let (again, _changes) = resolve(&directory.file());
    assert_eq!(again.unwrap().agents[0].id, plan.agents[0].id);
}

#[test]
fn edits_become_changes() {
    let directory = Directory::new();
    let file = directory.file();
    fs::write(&file, text(&[(0, "a"), (1, "b")])).unwrap();
    let (plan, changes) = resolve(&file);
    let plan = plan.unwrap();
    // Written in place: a peer is added, one gets another name.
    fs::write(&file, text(&[(0, "a"), (1, "c"), (2, "d")])).unwrap();
    let change = changes.recv_timeout(PATIENCE).unwrap();
    assert_eq!((names(&change.agents), change.deleted_agents.len()), (vec!["c", "d"], 0));
    assert_eq!((change.configuration.unwrap().peers.len(), change.settings.len()), (3, 1));
    // Broken edits change nothing, nor does a file that is gone.
    fs::write(&file, "[Interface]\nPrivateKey = x\n").unwrap();
    fs::remove_file(&file).unwrap();
    // Replaced by another file: peers are removed.
    let other = directory.0.join("other");
    fs::write(&other, text(&[(0, "a")])).unwrap();
    fs::rename(&other, &file).unwrap();
    let change = changes.recv_timeout(PATIENCE).unwrap();
    assert_eq!((names(&change.agents), change.deleted_agents.len()), (Vec::<&str>::new(), 2));
    // Only a comment is different.
    fs::write(&file, text(&[(0, "b")])).unwrap();
    let change = changes.recv_timeout(PATIENCE).unwrap();
    assert_eq!((names(&change.agents), change.settings.len()), (vec!["b"], 0));
    assert!(change.configuration.is_none());
    // The watch ends with the tunnel.
    drop(plan);
    assert!(changes.recv_timeout(PATIENCE).is_err());
}

#[cfg(unix)]
#[test]
fn a_link_is_followed() {
    let (links, targets) = (Directory::new(), Directory::new());
    fs::write(targets.file(), text(&[(0, "a")])).unwrap();
    std::os::unix::fs::symlink(targets.file(), links.file()).unwrap();
    let (plan, changes) = resolve(&links.file());
    let _plan = plan.unwrap();
    fs::write(targets.file(), text(&[(0, "b")])).unwrap();
    assert_eq!(names(&changes.recv_timeout(PATIENCE).unwrap().agents), ["b"]);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let directory = Directory::new();
    for content in [None, Some("nonsense"), Some("[Peer]\n")] {
        if let Some(content) = content {
            fs::write(directory.file(), content).unwrap();
        }
        let error = resolve(&directory.file()).0.unwrap_err();
        assert!(error.starts_with(&with_slashes(&directory.file())), "{error}");
    }
    assert!(resolve(&directory.0).0.is_err());
    assert!(resolve(&directory.0.join("none/wg0.conf")).0.is_err());
}
