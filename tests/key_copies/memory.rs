//! Searches memory, also that of another process, for parts of keys.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt,
};

/// A secret that is in a region of the memory.
pub(crate) struct Found<'a> {
    pub(crate) secret: &'a str,
    pub(crate) copies: usize,
    pub(crate) region: String,
    pub(crate) is_stack: bool,
}

/// Bytes that are compared. A register that was put down may hold no more of a key than this.
const PART: usize = 6;

/// What is looked for: each quarter of each secret.
pub(crate) struct Needles<'a> {
    parts: HashMap<[u8; PART], (&'a str, usize)>,
    /// Their first two bytes.
    begins: Vec<bool>,
}

pub(crate) fn needles(secrets: &BTreeMap<String, Vec<u8>>) -> Needles<'_> {
    let mut needles = Needles { parts: HashMap::new(), begins: vec![false; 1 << 16] };
    for (name, secret) in secrets {
        for (number, quarter) in secret.chunks(secret.len() / 4).enumerate() {
            // Without the bits that clamping changes.
            let part: [u8; PART] = quarter[1..=PART].try_into().unwrap();
            needles.begins[usize::from(u16::from_le_bytes([part[0], part[1]]))] = true;
            needles.parts.insert(part, (name, number));
        }
    }
    needles
}

impl<'a> Needles<'a> {
    pub(crate) fn find(&self, bytes: &[u8], region: &str, is_stack: bool) -> Vec<Found<'a>> {
        let mut found = BTreeMap::<&str, ([usize; 4], usize)>::new();
        for (at, part) in bytes.windows(PART).enumerate() {
            if self.begins[usize::from(u16::from_le_bytes([part[0], part[1]]))]
                && let Some(&(secret, quarter)) = self.parts.get(part)
            {
                let (copies, depth) = found.entry(secret).or_default();
                copies[quarter] += 1;
                *depth = bytes.len() - at;
            }
        }
        let found = found.into_iter().map(|(secret, (copies, depth))| Found {
            secret,
            copies: copies.into_iter().max().unwrap_or(0),
            region: format!("{region}, {depth} bytes below its end"),
            is_stack,
        });
        found.collect()
    }
}

/// Looks for secrets in the memory of a process.
pub(crate) fn search(process: u32, secrets: &BTreeMap<String, Vec<u8>>) -> Vec<Found<'_>> {
    let needles = needles(secrets);
    let stacks = stacks(process);
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = Vec::new();
    for (from, to, name) in writable(process) {
        let mut bytes = vec![0; to - from];
        if memory.read_exact_at(&mut bytes, from as u64).is_err() {
            // Mapped, and not there to be read: belongs to the kernel, or was unmapped by now.
            continue;
        }
        let (region, is_stack) = match stacks.iter().find(|(at, _)| (from..to).contains(at)) {
            Some((_, thread)) => (format!("the stack of {thread}"), true),
            None => (format!("{from:x}-{to:x} {name}"), name == "[stack]"),
        };
        found.extend(needles.find(&bytes, &region, is_stack));
    }
    found
}

/// The memory that can be written to: from where, to where, and the name if there is one.
fn writable(process: u32) -> Vec<(usize, usize, String)> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        words.next().filter(|access| access.starts_with("rw"))?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some((address(from)?, address(to)?, words.nth(3).unwrap_or_default().to_owned()))
    };
    maps.lines().filter_map(read).collect()
}

/// Where in its stack each thread is that sleeps, and its name.
fn stacks(process: u32) -> Vec<(usize, String)> {
    let read = |task: std::io::Result<fs::DirEntry>| {
        let task = task.ok()?.path();
        let call = fs::read_to_string(task.join("syscall")).ok()?;
        let stack = call.split_ascii_whitespace().rev().nth(1)?.strip_prefix("0x")?;
        let name = fs::read_to_string(task.join("comm")).ok()?;
        Some((usize::from_str_radix(stack, 16).ok()?, name.trim_end().to_owned()))
    };
    fs::read_dir(format!("/proc/{process}/task")).unwrap().filter_map(read).collect()
}
