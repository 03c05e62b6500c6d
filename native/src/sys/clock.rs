//! The host's time zone.

/// Seconds that local time is ahead of UTC at a Unix time. <https://man7.org/linux/man-pages/man3/localtime.3.html>
#[must_use]
pub fn utc_offset(unix_seconds: i64) -> i64 {
    // SAFETY: all zeros are a valid tm.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to living values of the types that the call expects.
    let found = unsafe { libc::localtime_r(&raw const unix_seconds, &raw mut local) };
    if found.is_null() {
        0
    } else {
        local.tm_gmtoff
    }
}
