//! Containers started for real and looked at from inside.

mod busybox;

use busybox::{can_start, run, Bundle};

#[test]
fn a_container_is_isolated() {
    if !can_start() {
        return;
    }
    let bundle = Bundle::new();
    let outcome = run(&bundle
        .plan("echo $$; hostname; id -u; pwd; ls /proc/self/fd; ps | grep -c sh; cat /proc/self/mountinfo"));
    println!("{}", outcome.output);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.output.starts_with("1\ninside\n0\n/\n"), "{outcome:?}");
}
