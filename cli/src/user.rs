//! `--user`: the account under which the daemon continues, after everything that needs privileges is open.

pub(crate) use imp::User;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
mod imp {
    use std::ffi::{CStr, CString};

    use wg_embed::{Error, ErrorKind, error::Result, ipc::Listener};

    use crate::{privileges, remover::Remover};

    /// A user to change to.
    pub(crate) struct User {
        /// The requested text.
        name: String,
        uid: libc::uid_t,
        gid: libc::gid_t,
        /// All groups of the process, including `gid`.
        groups: Vec<libc::gid_t>,
    }

    /// An entry of the system's list of users.
    struct Account {
        name: CString,
        uid: libc::uid_t,
        gid: libc::gid_t,
    }

    impl User {
        /// Finds `USER[:GROUP]`, names or numbers. With a group, the process will be only in that group; without one,
        /// in all groups of the user.
        ///
        /// To be called before a thread is started.
        ///
        /// # Errors
        /// If there is no such user or group, or this process may not change to that user.
        pub(crate) fn find(text: &str) -> std::result::Result<Self, String> {
            let refused = |reason: String| format!("--user {text}: {reason}");
            let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
            let account = account(user);
            let uid = account.as_ref().map(|account| account.uid).or_else(|| number(user));
            let uid = uid.ok_or_else(|| refused(format!("there is no user {user:?}")))?;
            if uid == 0 {
                return Err(refused("root would keep its rights".into()));
            }
            let (gid, groups) = match (group, account) {
                (Some(group), _) => {
                    let gid = group_id(group).ok_or_else(|| refused(format!("there is no group {group:?}")))?;
                    (gid, vec![gid])
                }
                (None, Some(account)) => (account.gid, groups_of(&account)),
                (None, None) => return Err(refused(format!("user {uid} is not in the system's list: add a group"))),
            };
            let missing = privileges::missing(&privileges::TO_CHANGE_USER)
                .map_err(|e| refused(format!("cannot ask for capabilities: {e}")))?;
            if !missing.is_empty() {
                return Err(refused(format!("cannot change the user without {}", missing.join(", "))));
            }
            Ok(Self { name: text.into(), uid, gid, groups })
        }

        /// Changes to the user permanently, with the capabilities that a tunnel needs. The files of the control sockets
        /// are given to the user as well; for each, a process that stays behind removes it at the end.
        ///
        /// To be called before a thread is started.
        pub(crate) fn assume(&self, listeners: Vec<Listener>) -> Result<Vec<Listener>> {
            let listeners = listeners.into_iter().map(|listener| self.give(listener)).collect::<Result<Vec<_>>>()?;
            privileges::change_user(self.uid, self.gid, &self.groups)
                .and_then(|()| privileges::keep(&privileges::FOR_A_TUNNEL))
                .map_err(|e| self.cannot("change the user", e))?;
            let unreachable = listeners.iter().find(|listener| listener.is_gone()).and_then(Listener::path);
            match unreachable {
                Some(path) => {
                    let text = format!("--user {}: the user cannot reach {}", self.name, path.display());
                    Err(Error::new(ErrorKind::Permission, text))
                }
                None => Ok(listeners),
            }
        }

        /// Gives the file of a control socket to the user.
        fn give(&self, listener: Listener) -> Result<Listener> {
            if !listener.removes_file() {
                return Ok(listener);
            }
            listener.give_file_to(self.uid, self.gid).map_err(|e| self.cannot("give the control socket away", e))?;
            let remover = Remover::start(|| listener.remove_file())
                .map_err(|e| self.cannot("start the process that removes the control socket", e))?;
            Ok(listener.removing_file_with(move || remover.remove()))
        }

        fn cannot(&self, what: &str, error: std::io::Error) -> Error {
            Error::io(format!("--user {}: cannot {what}", self.name), error)
        }
    }

    /// Parses an id. The highest one means "unchanged" to the system.
    fn number(text: &str) -> Option<u32> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|id| is_number && *id != u32::MAX)
    }

    /// Returns the account of this name, or else of this number.
    fn account(text: &str) -> Option<Account> {
        let name = CString::new(text).ok()?;
        // SAFETY: the text ends in a zero and lives. No other thread calls it.
        let mut found = unsafe { libc::getpwnam(name.as_ptr()) };
        if let (true, Some(uid)) = (found.is_null(), number(text)) {
            // SAFETY: it takes a number. No other thread calls it.
            found = unsafe { libc::getpwuid(uid) };
        }
        // SAFETY: NULL, or an entry that stays until the next question.
        let found = unsafe { found.as_ref() }?;
        // SAFETY: the name of an entry is a C string.
        let name = unsafe { CStr::from_ptr(found.pw_name) }.to_owned();
        Some(Account { name, uid: found.pw_uid, gid: found.pw_gid })
    }

    fn group_id(text: &str) -> Option<libc::gid_t> {
        let name = CString::new(text).ok()?;
        // SAFETY: the text ends in a zero and lives. No other thread calls it.
        let found = unsafe { libc::getgrnam(name.as_ptr()) };
        // SAFETY: NULL, or an entry that stays until the next question.
        let found = unsafe { found.as_ref() };
        found.map(|group| group.gr_gid).or_else(|| number(text))
    }

    fn groups_of(account: &Account) -> Vec<libc::gid_t> {
        let mut groups = vec![0; 64];
        loop {
            let mut count = groups.len() as libc::c_int;
            let (name, room) = (account.name.as_ptr(), groups.as_mut_ptr());
            // SAFETY: the name ends in a zero and lives, as does the room, whose length is given.
            let found = unsafe { libc::getgrouplist(name, account.gid, room, &raw mut count) };
            if found >= 0 {
                groups.truncate(count.unsigned_abs() as usize);
                return groups;
            }
            groups.resize(groups.len() * 2, 0);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn ids_are_numbers_that_change_something() {
            assert_eq!(number("0"), Some(0));
            assert_eq!(number("4294967294"), Some(u32::MAX - 1));
            for text in ["", "+1", "-1", " 1", "1x", "4294967295", "4294967296"] {
                assert_eq!(number(text), None, "{text:?}");
            }
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod imp {
    use wg_embed::{error::Result, ipc::Listener};

    /// This system has no users that a process can become.
    pub(crate) enum User {}

    impl User {
        pub(crate) fn find(text: &str) -> std::result::Result<Self, String> {
            Err(format!("--user {text}: this system is not supported yet"))
        }

        pub(crate) fn assume(&self, _: Vec<Listener>) -> Result<Vec<Listener>> {
            match *self {}
        }
    }
}
