//! The keeper's log, which is its standard error.

/// One line for the keeper's log. A log that cannot be written is no reason to end: `eprintln!` would.
macro_rules! report {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "keeper: {}", format_args!($($argument)*));
    }};
}
