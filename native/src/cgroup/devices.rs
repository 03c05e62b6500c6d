//! Device rules: lines for v1's devices.allow and devices.deny, an eBPF program for v2.
//!
//! Both mean: an access is granted if every part of it (read, write, mknod) is granted by the last rule that
//! covers the device and that part. What no rule covers is denied: a list always starts from nothing.
//!
//! Sources: the kernel's admin-guide/cgroup-v1/devices.rst; bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::parent::{open_at, Parent};
use crate::error::{Error, Result};
use crate::plan::DeviceRule;
use crate::sys::bpf::{self, Instruction};

/// Loaded programs by their rules: nearly all containers have the same, and loading costs more than attaching.
#[derive(Debug, Default)]
pub(super) struct Programs(Mutex<Vec<(Vec<Instruction>, Arc<OwnedFd>)>>);

/// Programs kept; the oldest goes.
const CACHED: usize = 16;

impl Programs {
    fn load(&self, rules: &[DeviceRule]) -> Result<Arc<OwnedFd>> {
        let code = program(rules)?;
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fd)) = cache.iter().find(|(cached, _)| *cached == code) {
            return Ok(fd.clone());
        }
        let fd =
            Arc::new(bpf::load_device_program(&code).map_err(|e| Error::os("load", "device program", e))?);
        if cache.len() == CACHED {
            cache.remove(0);
        }
        cache.push((code, fd.clone()));
        Ok(fd)
    }
}

/// Put the rules in force for the group `name`, in place of what was there. `group` is its cgroup2 directory
/// where there is one. Fails closed: rules that cannot be enforced are an error.
pub(super) fn restrict(
    parent: &Parent,
    name: &str,
    group: Option<BorrowedFd<'_>>,
    rules: &[DeviceRule],
) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    match (parent.host.find("devices"), group) {
        (Some((index, _)), _) => write_v1(parent, index, name, rules),
        (None, Some(group)) => attach_v2(parent, name, group, rules),
        (None, None) => Err(Error::Invalid("no cgroup hierarchy here can restrict devices".into())),
    }
}

fn write_v1(parent: &Parent, index: usize, name: &str, rules: &[DeviceRule]) -> Result<()> {
    // Nearly all lines go to one file: it stays open for them.
    let mut last: Option<(&'static str, OwnedFd)> = None;
    for (file, line) in lines(rules)? {
        let relative = format!("{name}/{file}");
        let failed = |e| Error::os(format!("write {line} to"), parent.shown(index, &relative), e);
        let fd = match last.take() {
            Some((open, fd)) if open == file => fd,
            _ => open_at(parent.directory(index)?, &relative).map_err(failed)?,
        };
        rustix::io::write(&fd, line.as_bytes()).map_err(failed)?;
        last = Some((file, fd));
    }
    Ok(())
}

/// The kernel takes one rule a write.
fn lines(rules: &[DeviceRule]) -> Result<Vec<(&'static str, String)>> {
    let mut out = Vec::with_capacity(rules.len() + 1);
    if !rules.first().is_some_and(covers_all) {
        out.push(("devices.deny", "a *:* rwm".to_string()));
    }
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_string(), |n| n.to_string());
        let (kind, ..) = checked(rule)?;
        out.push((file, format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access)));
    }
    Ok(out)
}

fn covers_all(rule: &DeviceRule) -> bool {
    rule.kind == 'a'
}

pub(super) fn attach_v2(
    parent: &Parent,
    name: &str,
    group: BorrowedFd<'_>,
    rules: &[DeviceRule],
) -> Result<()> {
    let failed = |operation: &str| {
        let shown = parent.host.unified().map_or_else(String::new, |index| parent.shown(index, name));
        let operation = operation.to_string();
        move |error: rustix::io::Errno| Error::os(operation, shown, error)
    };
    let program = parent.host.programs.load(rules)?;
    let old = bpf::device_programs(group).map_err(failed("query device programs of"))?;
    // The first of them is ours, others came from elsewhere and stay.
    let old = old.first().map(|id| bpf::program_by_id(*id)).transpose();
    let old = old.map_err(failed("open device program of"))?;
    bpf::attach_device_program(group, program.as_fd(), old.as_ref().map(AsFd::as_fd))
        .map_err(failed("attach device program to"))
}

/// v2's numbers of `struct bpf_cgroup_dev_ctx`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// The rule's kind, its number in the context (`None`: both), and its access bits.
fn checked(rule: &DeviceRule) -> Result<(char, Option<i32>, i32)> {
    let kind = match rule.kind {
        'a' => None,
        'b' => Some(BLOCK),
        'c' => Some(CHAR),
        other => return Err(Error::Invalid(format!("bad device type {other:?}: must be a, b or c"))),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(Error::Invalid(format!("bad device access {:?}: must be of rwm", rule.access))),
        };
    }
    if access == 0 {
        return Err(Error::Invalid("device rule without any access".into()));
    }
    Ok((rule.kind, kind, access))
}

// Registers: r0 the answer, r1 the context, r2 device type, r3 access not decided yet, r4 major, r5 minor.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT_EQUAL: u8 = 0x56; // 32-bit comparison
const JUMP_IF_EQUAL: u8 = 0x16; // 32-bit comparison
const EXIT: u8 = 0x95;

/// The rules as a program: from the last to the first, each takes the access bits that it decides.
fn program(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    let op = |code, target, source, offset, value| Instruction::new(code, target, source, offset, value);
    let mut out = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let (_, kind, access) = checked(rule)?;
        let mut body = if rule.allow {
            vec![op(AND, 3, 0, 0, !access), op(JUMP_IF_NOT_EQUAL, 3, 0, 2, 0), op(MOVE, 0, 0, 0, 1)]
        } else {
            vec![
                op(MOVE_REGISTER, 0, 3, 0, 0),
                op(AND, 0, 0, 0, access),
                op(JUMP_IF_EQUAL, 0, 0, 2, 0),
                op(MOVE, 0, 0, 0, 0),
            ]
        };
        body.push(op(EXIT, 0, 0, 0, 0));
        let tests = [(2, kind), (4, rule.major.map(|n| n as i32)), (5, rule.minor.map(|n| n as i32))];
        let tests: Vec<(u8, i32)> = tests.into_iter().filter_map(|(r, v)| v.map(|v| (r, v))).collect();
        for (position, (register, value)) in tests.iter().enumerate() {
            let over = tests.len() - position - 1 + body.len();
            out.push(op(JUMP_IF_NOT_EQUAL, *register, 0, over as i16, *value));
        }
        out.append(&mut body);
    }
    out.extend([op(MOVE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: access.into() }
    }

    fn dockers() -> Vec<DeviceRule> {
        vec![
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', None, None, "m"),
            rule(true, 'b', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'c', Some(136), None, "rwm"),
            rule(false, 'c', Some(136), Some(7), "w"),
        ]
    }

    /// Runs the few opcodes that `program` uses.
    fn run(code: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let context = [(access << 16 | kind) as u32, major, minor];
        let mut registers = [0i64; 6];
        let mut at = 0;
        loop {
            let instruction = &code[at];
            let (target, source) = (instruction.target() as usize, instruction.source() as usize);
            let (value, offset) = (i64::from(instruction.value()), instruction.offset() as usize);
            at += 1;
            match instruction.code() {
                LOAD_WORD => registers[target] = i64::from(context[offset / 4]),
                MOVE => registers[target] = value,
                MOVE_REGISTER => registers[target] = registers[source],
                AND => registers[target] &= value,
                SHIFT_RIGHT => registers[target] = ((registers[target] as u64) >> value) as i64,
                JUMP_IF_NOT_EQUAL if registers[target] as u32 != value as u32 => at += offset,
                JUMP_IF_EQUAL if registers[target] as u32 == value as u32 => at += offset,
                JUMP_IF_NOT_EQUAL | JUMP_IF_EQUAL => {}
                EXIT => return registers[0] != 0,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    /// The meaning of a list, bit by bit.
    fn means(rules: &[DeviceRule], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        [MKNOD, READ, WRITE].iter().filter(|bit| access & **bit != 0).all(|bit| {
            rules
                .iter()
                .rev()
                .find(|rule| {
                    let (_, of, bits) = checked(rule).unwrap_or_else(|e| panic!("{e}"));
                    of.is_none_or(|of| of == kind)
                        && rule.major.is_none_or(|n| n == major)
                        && rule.minor.is_none_or(|n| n == minor)
                        && bits & bit != 0
                })
                .is_some_and(|rule| rule.allow)
        })
    }

    #[test]
    fn the_program_means_what_the_rules_mean() {
        let lists = [
            dockers(),
            vec![rule(true, 'a', None, None, "rwm")],
            vec![rule(true, 'b', Some(8), None, "r"), rule(true, 'b', None, Some(1), "w")],
            vec![rule(true, 'c', Some(u32::MAX), Some(3_000_000_000), "rw")],
        ];
        for rules in &lists {
            let code = program(rules).unwrap_or_else(|e| panic!("{e}"));
            for kind in [BLOCK, CHAR] {
                for access in 1..8 {
                    for major in [0, 1, 8, 136, u32::MAX] {
                        for minor in [0, 1, 3, 7, 3_000_000_000] {
                            let (got, want) = (
                                run(&code, kind, access, major, minor),
                                means(rules, kind, access, major, minor),
                            );
                            assert_eq!(got, want, "{rules:?}: {kind} {access} {major}:{minor}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn v1_lines_start_from_nothing() {
        let first = lines(&dockers()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(first[0], ("devices.deny", "a *:* rwm".into()));
        assert_eq!(first[3], ("devices.allow", "c 1:3 rwm".into()));
        let second = lines(&[rule(true, 'c', Some(1), None, "r")]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(second[0], ("devices.deny", "a *:* rwm".into()));
        assert_eq!(second[1], ("devices.allow", "c 1:* r".into()));
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            rule(true, 'x', None, None, "r"),
            rule(true, 'c', None, None, "rx"),
            rule(true, 'c', None, None, ""),
        ] {
            assert!(program(std::slice::from_ref(&bad)).is_err() && lines(&[bad]).is_err());
        }
    }
}
