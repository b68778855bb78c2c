//! Signals that come at any moment of the start: it ends with a reason or well, and nothing is left behind.

use std::{
    fs::File,
    io::{Read, Seek},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::SeqCst},
        mpsc::TryRecvError,
    },
};

use crate::{
    harness::{BINARY, Daemon, Directory, Interface, answers, wait_until},
    netns::{Netns, as_root},
};

const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE];

/// Between two moments that are tried: each system call has two, when it begins and when it ends.
const STEP: usize = 13;

/// How a command went that was traced.
struct Traced {
    status: ExitStatus,
    /// At how many moments it was stopped, with all its processes.
    stops: usize,
}

fn ptrace(request: libc::c_uint, id: i32, data: i32) -> bool {
    // SAFETY: with these requests it takes numbers only. A process that has ended in between is an error.
    unsafe { libc::ptrace(request, id, ptr::null_mut::<libc::c_void>(), data as libc::c_long) == 0 }
}

/// Runs a command and its children to their end, and sends a signal to the process that is at moment `at`, whose id
/// goes to `target`.
fn trace(mut command: Command, at: usize, signal: i32, target: &AtomicI32) -> Traced {
    let start = || match ptrace(libc::PTRACE_TRACEME, 0, 0) {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: it only calls ptrace(2).
    unsafe { command.pre_exec(start) };
    let first = i32::try_from(command.spawn().unwrap().id()).unwrap();
    let (mut stops, mut begun, mut last) = (0, false, None);
    loop {
        let mut status = 0;
        // SAFETY: the status lives. Only what this thread traces is waited for.
        let id = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if id < 0 {
            return Traced { status: last.unwrap(), stops };
        }
        if !libc::WIFSTOPPED(status) {
            last = if id == first { Some(ExitStatus::from_raw(status)) } else { last };
            continue;
        }
        if !begun {
            let options = libc::PTRACE_O_TRACESYSGOOD
                | libc::PTRACE_O_TRACEFORK
                | libc::PTRACE_O_TRACEVFORK
                | libc::PTRACE_O_TRACECLONE
                | libc::PTRACE_O_EXITKILL;
            begun = ptrace(libc::PTRACE_SETOPTIONS, id, options);
            assert!(begun);
        }
        let mut passed_on = 0;
        match libc::WSTOPSIG(status) {
            stop if stop == libc::SIGTRAP | 0x80 => {
                stops += 1;
                if stops == at {
                    // SAFETY: kill(2) takes numbers; this is a process of ours. A thread's id stands for its process.
                    unsafe { libc::kill(id, signal) };
                    target.store(id, SeqCst);
                }
            }
            // New processes begin with the latter.
            libc::SIGTRAP | libc::SIGSTOP => {}
            other => passed_on = other,
        }
        ptrace(if stops < at { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT }, id, passed_on);
    }
}

/// Starts a daemon, sends a signal at a moment, and waits for the end. A daemon that has no reason to end is ended.
fn meets(options: &[&str], at: usize, signal: i32) -> usize {
    let netns = Netns::new();
    let interface = Interface::new();
    let directory = Directory::new(interface.name());
    let path = directory.0.join("said");
    let mut said = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    let mut command = Command::new(BINARY);
    command.args(options).arg(interface.name()).env_remove("LOG_LEVEL");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone().unwrap());
    let target = Arc::new(AtomicI32::new(0));
    let traced = netns.start({
        let target = target.clone();
        move || trace(command, at, signal, &target)
    });
    let mut outcome = None;
    let what = format!("it ends: {options:?}, {at}, signal {signal}");
    wait_until(&what, || match traced.try_recv() {
        Ok(traced) => {
            outcome = Some(traced);
            true
        }
        Err(TryRecvError::Disconnected) => panic!("{what}"),
        Err(TryRecvError::Empty) => {
            let (target, processes) = (target.load(SeqCst), interface.processes());
            // The signal was for a process that is not there for long, or for the one that removes the file.
            let is_for_another = !processes.contains(&target) || processes.contains(&parent(target));
            if (signal == libc::SIGPIPE || is_for_another) && answers(&interface) {
                processes.into_iter().for_each(|id| Daemon(id).signal(libc::SIGTERM));
            }
            false
        }
    });
    let Traced { status, stops } = outcome.unwrap();
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    match (status.code(), status.signal()) {
        (Some(0), _) => assert_eq!(text, "", "{what}"),
        (Some(1), _) => assert!(text.starts_with("wg-embed: ") && text.lines().count() == 1, "{what}: {text}"),
        (_, Some(by)) => assert!([signal, libc::SIGTERM].contains(&by), "{what}: {status}"),
        _ => panic!("{what}: {status}"),
    }
    assert_eq!(interface.processes(), [0; 0], "{what}");
    assert!(!interface.socket().exists() && !interface.exists(&netns), "{what}");
    stops
}

fn parent(id: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn signals_at_any_moment_of_the_start_leave_nothing_behind() {
    // Under nohup(1) one is ignored, in the background of a shell another, and processes would rightly do so as well.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the default action is not a function.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    as_root(|| {
        for options in [&["-f"][..], &[], &["-f", "--user", "nobody"], &["--user", "nobody"]] {
            let all = meets(options, usize::MAX, libc::SIGPIPE);
            for (at, signal) in (1..all).step_by(STEP).zip(SIGNALS.into_iter().cycle()) {
                meets(options, at, signal);
            }
        }
    });
}
