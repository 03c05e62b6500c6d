//! Docker's profile format, and what it comes to on one host: an ordered list of rules.

use serde::Deserialize;

use super::Architecture;
use crate::confine::capability_bit;
use crate::error::{Error, Result};

const EPERM: u16 = 1;

/// What decides a profile's conditional rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    pub capabilities: u64,
    /// (major, minor)
    pub kernel: (u32, u32),
    pub architecture: Architecture,
}

/// A system call table that a program of the host may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    fn named(name: &str) -> Option<Self> {
        match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_X32" => Some(Self::X32),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            "SCMP_ARCH_ARM" => Some(Self::Arm),
            _ => None,
        }
    }
}

/// What happens to a call: the kernel's `SECCOMP_RET_*` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Action(pub u32);

impl Action {
    pub const ALLOW: Self = Self(0x7fff_0000);
    pub const KILL_THREAD: Self = Self(0);
    const KILL_PROCESS: Self = Self(0x8000_0000);
    const TRAP: Self = Self(0x0003_0000);
    const LOG: Self = Self(0x7ffc_0000);

    pub const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    const fn trace(message: u16) -> Self {
        Self(0x7ff0_0000 | message as u32)
    }

    /// Whether a call goes through, or may.
    pub fn is_permissive(self) -> bool {
        matches!(self.0 & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
    }

    fn named(name: &str, errno: Option<u16>) -> Result<Self> {
        Ok(match name {
            "SCMP_ACT_ALLOW" => Self::ALLOW,
            "SCMP_ACT_ERRNO" => Self::errno(errno.unwrap_or(EPERM)),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KILL_THREAD,
            "SCMP_ACT_KILL_PROCESS" => Self::KILL_PROCESS,
            "SCMP_ACT_TRAP" => Self::TRAP,
            "SCMP_ACT_TRACE" => Self::trace(errno.unwrap_or(EPERM)),
            "SCMP_ACT_LOG" => Self::LOG,
            other => return Err(invalid(&format!("unsupported action {other:?}"))),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal under this mask.
    Masked(u64),
}

/// A comparison with an argument of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0 to 5.
    pub index: u32,
    pub operation: Operation,
    pub value: u64,
}

/// A rule for the calls `names`: taken if all its conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// A resolved profile. Of the rules for one call, the first without conditions counts alone; else the first
/// whose conditions hold; else the default action.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub default: Action,
    pub abis: Vec<Abi>,
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchitectureMap>>,
    syscalls: Option<Vec<SyscallRule>>,
    listener_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SyscallRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    includes: Option<Limits>,
    excludes: Option<Limits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Limits {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

fn invalid(reason: &str) -> Error {
    Error::Invalid(format!("bad seccomp profile: {reason}"))
}

/// Read a profile and decide its conditions.
pub(super) fn resolve(text: &[u8], conditions: &Conditions) -> Result<Filter> {
    let profile: Profile = serde_json::from_slice(text).map_err(|e| invalid(&e.to_string()))?;
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(invalid("listenerPath is not supported"));
    }
    let default = Action::named(&profile.default_action, profile.default_errno_ret)?;
    let abis = abis(profile.architectures, profile.arch_map, conditions.architecture)?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        if applies(&rule, conditions)? {
            add_rules(rule, default, &mut rules)?;
        }
    }
    Ok(Filter { default, abis, rules })
}

/// The tables that are filtered; a call through any other is killed. Always the native one.
fn abis(
    list: Option<Vec<String>>,
    map: Option<Vec<ArchitectureMap>>,
    native: Architecture,
) -> Result<Vec<Abi>> {
    let own = match native {
        Architecture::X86_64 => "SCMP_ARCH_X86_64",
        Architecture::Aarch64 => "SCMP_ARCH_AARCH64",
    };
    let (list, map) = (list.unwrap_or_default(), map.unwrap_or_default());
    if !list.is_empty() && !map.is_empty() {
        return Err(invalid("both architectures and archMap are given"));
    }
    let mapped = map.into_iter().find(|entry| entry.architecture == own);
    let names = list
        .into_iter()
        .chain(mapped.into_iter().flat_map(|entry| entry.sub_architectures.unwrap_or_default()));
    let possible: &[Abi] = match native {
        Architecture::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
        Architecture::Aarch64 => &[Abi::Aarch64, Abi::Arm],
    };
    let mut abis = vec![possible[0]];
    for abi in names.filter_map(|name| Abi::named(&name)) {
        if possible.contains(&abi) && !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    Ok(abis)
}

fn applies(rule: &SyscallRule, conditions: &Conditions) -> Result<bool> {
    let own = match conditions.architecture {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
    };
    let held = |cap: &String| capability_bit(cap).is_some_and(|bit| conditions.capabilities >> bit & 1 == 1);
    let new_enough = |limits: &Limits| match &limits.min_kernel {
        Some(version) => parse_kernel(version).map(|wanted| Some(conditions.kernel >= wanted)),
        None => Ok(None),
    };
    if let Some(excludes) = &rule.excludes {
        let arches = excludes.arches.iter().flatten().any(|arch| arch == own);
        let caps = excludes.caps.iter().flatten().any(held);
        if arches || caps || new_enough(excludes)? == Some(true) {
            return Ok(false);
        }
    }
    if let Some(includes) = &rule.includes {
        let arches = includes.arches.as_deref().unwrap_or_default();
        let elsewhere = !arches.is_empty() && !arches.iter().any(|arch| arch == own);
        let lacking = !includes.caps.iter().flatten().all(held);
        if elsewhere || lacking || new_enough(includes)? == Some(false) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As runc has it: a rule that says what the default says is void; and two conditions on one argument are not
/// both to hold, but each makes a rule of its own.
fn add_rules(rule: SyscallRule, default: Action, out: &mut Vec<Rule>) -> Result<()> {
    let names =
        match (rule.name.filter(|name| !name.is_empty()), rule.names.filter(|names| !names.is_empty())) {
            (Some(_), Some(_)) => return Err(invalid("both name and names are given")),
            (Some(name), None) => vec![name],
            (None, Some(names)) => names,
            (None, None) => return Err(invalid("a rule without names")),
        };
    let action = Action::named(&rule.action, rule.errno_ret)?;
    if action == default {
        return Ok(());
    }
    let conditions: Vec<Condition> = rule.args.iter().flatten().map(condition).collect::<Result<_>>()?;
    let twice =
        conditions.iter().enumerate().any(|(i, c)| conditions[..i].iter().any(|d| d.index == c.index));
    if twice {
        out.extend(conditions.iter().map(|c| Rule { names: names.clone(), action, conditions: vec![*c] }));
    } else {
        out.push(Rule { names, action, conditions });
    }
    Ok(())
}

fn condition(argument: &Argument) -> Result<Condition> {
    if argument.index > 5 {
        return Err(invalid(&format!("argument index {} is above 5", argument.index)));
    }
    let operation = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Operation::Equal,
        "SCMP_CMP_NE" => Operation::NotEqual,
        "SCMP_CMP_LT" => Operation::Less,
        "SCMP_CMP_LE" => Operation::LessOrEqual,
        "SCMP_CMP_GT" => Operation::Greater,
        "SCMP_CMP_GE" => Operation::GreaterOrEqual,
        "SCMP_CMP_MASKED_EQ" => Operation::Masked(argument.value),
        other => return Err(invalid(&format!("unknown operator {other:?}"))),
    };
    let value = match operation {
        Operation::Masked(mask) => argument.value_two & mask,
        _ => argument.value,
    };
    Ok(Condition { index: argument.index, operation, value })
}

/// `4.8` or `6.1.0-rc2`.
fn parse_kernel(version: &str) -> Result<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(invalid(&format!("bad kernel version {version:?}"))),
    }
}

/// The running kernel's version; the oldest that proa runs on where it does not say.
pub(super) fn host_kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    parse_kernel(&release).unwrap_or((5, 15))
}
