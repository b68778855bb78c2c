//! How many processors the threads of this process may use.

/// Returns the number of processors that this thread may use, at least 1.
///
/// Quotas of control groups are not considered: the function of std that does would be a hundredth of the library.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn processors() -> usize {
    // SAFETY: a set of processors is an array of integers.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is passed with its size, and lives.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result < 0 {
        // There are more than a set has room for.
        return 8 * size_of_val(&set);
    }
    // SAFETY: the set is initialized.
    usize::try_from(unsafe { libc::CPU_COUNT(&set) }).map_or(1, |number| number.max(1))
}

/// Returns the number of processors that this process may use, at least 1.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_as_many_as_the_system_says() {
        // Std also considers quotas.
        let std = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        assert!(super::processors() >= std, "{} and {std}", super::processors());
    }
}
