//! The compiler against a plain reading of the profile: every call number of every table, with arguments on and
//! beside every boundary that the profile names.

use std::collections::BTreeMap;

use super::assemble::{
    Instruction, AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_OR_EQUAL, LOAD, LONGEST, RETURN,
};
use super::profile::{resolve, Abi, Action, Condition, Conditions, Filter, Operation, Rule};
use super::syscalls::SYSCALLS;
use super::{compile, Architecture, DEFAULT_PROFILE};

const SYS_ADMIN: u64 = 1 << 21;
const DOCKERS_CAPS: u64 = 0xa804_25fb;

fn conditions(capabilities: u64, architecture: Architecture) -> Conditions {
    Conditions { capabilities, kernel: (6, 1), architecture }
}

fn default_filter(capabilities: u64, architecture: Architecture) -> Filter {
    filter(DEFAULT_PROFILE, &conditions(capabilities, architecture))
}

fn filter(text: &str, conditions: &Conditions) -> Filter {
    resolve(text.as_bytes(), conditions).unwrap_or_else(|e| panic!("{e}"))
}

fn program(filter: &Filter) -> Vec<Instruction> {
    compile::program(filter).unwrap_or_else(|e| panic!("{e}"))
}

/// One call as `struct seccomp_data` has it.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..=60 => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                let low = (offset % 8 == 0) == cfg!(target_endian = "little");
                if low {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
            other => panic!("load at {other}"),
        }
    }
}

/// Runs a program as the kernel would; answers the action and the instructions it took.
fn run(program: &[Instruction], call: &Call) -> (Action, usize) {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0);
    loop {
        let instruction = program[at];
        (at, steps) = (at + 1, steps + 1);
        let taken = match instruction.code {
            LOAD => {
                accumulator = call.word(instruction.value);
                continue;
            }
            AND => {
                accumulator &= instruction.value;
                continue;
            }
            RETURN => return (Action(instruction.value), steps),
            JUMP => {
                at += instruction.value as usize;
                continue;
            }
            JUMP_EQUAL => accumulator == instruction.value,
            JUMP_GREATER => accumulator > instruction.value,
            JUMP_GREATER_OR_EQUAL => accumulator >= instruction.value,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if taken { instruction.jump_true } else { instruction.jump_false });
    }
}

fn holds(condition: &Condition, call: &Call, narrow: bool) -> bool {
    let width = if narrow { u64::from(u32::MAX) } else { u64::MAX };
    let (argument, value) = (call.arguments[condition.index as usize] & width, condition.value & width);
    match condition.operation {
        Operation::Equal => argument == value,
        Operation::NotEqual => argument != value,
        Operation::Less => argument < value,
        Operation::LessOrEqual => argument <= value,
        Operation::Greater => argument > value,
        Operation::GreaterOrEqual => argument >= value,
        Operation::Masked(mask) => argument & mask & width == value,
    }
}

/// The rules of a profile by call, for one table.
struct Reading<'f> {
    filter: &'f Filter,
    abi: Abi,
    rules: BTreeMap<u32, Vec<&'f Rule>>,
}

impl<'f> Reading<'f> {
    fn new(filter: &'f Filter, abi: Abi) -> Self {
        let mut rules: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &filter.rules {
            for number in rule.names.iter().filter_map(|name| abi.number(name)) {
                rules.entry(number).or_default().push(rule);
            }
        }
        Self { filter, abi, rules }
    }

    /// What the profile says, rule by rule.
    fn of(&self, call: &Call) -> Action {
        if !self.filter.abis.contains(&self.abi) {
            // -1 is no x32 call: a tracer skips a call with it.
            let skip =
                call.number == u32::MAX && self.abi == Abi::X32 && self.filter.abis.contains(&Abi::X86_64);
            return if skip { self.filter.default } else { Action::KILL_THREAD };
        }
        let rules = self.rules.get(&call.number).map_or(&[][..], Vec::as_slice);
        if let Some(rule) = rules.iter().find(|rule| rule.conditions.is_empty()) {
            return rule.action;
        }
        let narrow = self.abi.is_narrow();
        if let Some(rule) = rules.iter().find(|r| r.conditions.iter().all(|c| holds(c, call, narrow))) {
            return rule.action;
        }
        let last = self.rules.keys().next_back();
        let new = last.is_some_and(|last| call.number > *last) && call.number != u32::MAX;
        if new && !self.filter.default.is_permissive() {
            return Action::errno(38);
        }
        self.filter.default
    }
}

/// Values on and beside every number that the conditions on an argument name.
fn boundaries(filter: &Filter, abi: Abi) -> Vec<u64> {
    let mut values = vec![0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX];
    for condition in filter.rules.iter().flat_map(|rule| &rule.conditions) {
        let value = condition.value;
        values.extend([
            value,
            value.wrapping_add(1),
            value.wrapping_sub(1),
            value ^ 1 << 32,
            value | 1 << 63,
        ]);
        if let Operation::Masked(mask) = condition.operation {
            values.extend([mask, !mask, value | !mask, mask & mask.wrapping_neg()]);
        }
    }
    if abi.is_narrow() {
        for value in &mut values {
            *value &= u64::from(u32::MAX);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Compare for all numbers; where a call has conditions, for all boundary values of its arguments.
fn check(filter: &Filter) {
    let program = program(filter);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm] {
        let bit = abi.number("read").unwrap_or(0) & 0x4000_0000;
        let numbers =
            (0..620).map(|n| n | bit).chain(983_040..983_050).chain([u32::MAX, u32::MAX - 1, 1 << 30]);
        let values = boundaries(filter, abi);
        // The bit tells x86_64's two tables apart.
        let own = |number: &u32| match abi {
            Abi::X86_64 => *number < 1 << 30 || *number == u32::MAX,
            Abi::X32 => *number >= 1 << 30,
            _ => true,
        };
        let reading = Reading::new(filter, abi);
        for number in numbers.filter(own) {
            let rules = reading.rules.get(&number).map_or(&[][..], Vec::as_slice);
            let conditional = rules.iter().any(|rule| !rule.conditions.is_empty());
            let first = if conditional { &values[..] } else { &[0] };
            for a in first {
                for b in first.iter().step_by(first.len() / 8 + 1) {
                    let arguments = [*a, *b, *a, *b, a ^ b, *b];
                    for arguments in [arguments, [*b, *a, *b, *a, *a, a ^ b]] {
                        let call = Call { audit: abi.audit(), number, arguments };
                        assert_eq!(run(&program, &call).0, reading.of(&call), "{abi:?} {call:x?}");
                    }
                }
            }
        }
    }
}

fn verdict(program: &[Instruction], abi: Abi, name: &str, arguments: &[u64]) -> Action {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let number = abi.number(name).unwrap_or_else(|| panic!("no {name}"));
    run(program, &Call { audit: abi.audit(), number, arguments: all }).0
}

#[test]
fn the_default_profile_means_what_it_says() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        for capabilities in [0, DOCKERS_CAPS, SYS_ADMIN, u64::MAX] {
            check(&default_filter(capabilities, architecture));
        }
    }
}

#[test]
fn the_default_profile_keeps_what_security_promises() {
    let program = program(&default_filter(DOCKERS_CAPS, Architecture::X86_64));
    let (denied, missing) = (Action::errno(1), Action::errno(38));
    let on = |name, arguments: &[u64]| verdict(&program, Abi::X86_64, name, arguments);
    for name in
        ["io_uring_setup", "io_uring_enter", "userfaultfd", "bpf", "perf_event_open", "kexec_load", "mount"]
    {
        assert_eq!(on(name, &[]), denied, "{name}");
    }
    for (family, action) in
        [(1, Action::ALLOW), (2, Action::ALLOW), (16, Action::ALLOW), (38, denied), (40, denied)]
    {
        assert_eq!(on("socket", &[family]), action, "family {family}");
        // The kernel looks at 32 bits only.
        assert_eq!(on("socket", &[family | 1 << 32]), denied, "family {family} in disguise");
        assert_eq!(verdict(&program, Abi::X86, "socket", &[family]), action, "i386 family {family}");
    }
    assert_eq!(verdict(&program, Abi::X86, "socketcall", &[1]), missing);
    assert_eq!(verdict(&program, Abi::X86, "socketcall", &[3]), Action::ALLOW);
    assert_eq!(on("clone3", &[]), missing);
    assert_eq!(on("clone", &[0x0001_0000]), Action::ALLOW);
    assert_eq!(on("clone", &[0x1000_0000]), denied, "CLONE_NEWUSER");
    assert_eq!(on("read", &[]), Action::ALLOW);
    let foreign = Call { audit: Abi::Aarch64.audit(), number: 0, arguments: [0; 6] };
    assert_eq!(run(&program, &foreign).0, Action::KILL_THREAD);
}

#[test]
fn capabilities_open_the_calls_that_need_them() {
    let program = program(&default_filter(SYS_ADMIN, Architecture::X86_64));
    let on = |name, arguments: &[u64]| verdict(&program, Abi::X86_64, name, arguments);
    assert_eq!(on("clone3", &[]), Action::ALLOW);
    assert_eq!(on("clone", &[0x1000_0000]), Action::ALLOW);
    assert_eq!(on("mount", &[]), Action::ALLOW);
    assert_eq!(on("reboot", &[]), Action::errno(1));
}

#[test]
fn every_operator_is_exact_on_both_words() {
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT"];
    for op in operators {
        for value in [0, 7, u64::from(u32::MAX), 1 << 32, (5 << 32) + 9, u64::MAX] {
            let text = format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
                {{"names": ["read", "openat"], "action": "SCMP_ACT_TRAP", "args":
                [{{"index": 1, "value": {value}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            );
            check(&filter(&text, &conditions(0, Architecture::X86_64)));
        }
    }
    for mask in [0u64, 1, 0xff00_0000_ff00, u64::MAX] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{{"name": "read", "action": "SCMP_ACT_LOG", "args":
            [{{"index": 0, "value": {mask}, "valueTwo": 4373, "op": "SCMP_CMP_MASKED_EQ"}}]}}]}}"#
        );
        check(&filter(&text, &conditions(0, Architecture::X86_64)));
    }
}

/// xorshift64: the same profiles every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

fn random_filter(random: &mut Random) -> Filter {
    let actions =
        [Action::ALLOW, Action::errno(1), Action::errno(13), Action::KILL_THREAD, Action(0x8000_0000)];
    let values = [0, 1, 5, 38, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX];
    let mut rules = Vec::new();
    for _ in 0..random.below(60) {
        let names = (0..=random.below(30)).map(|_| random.pick(&SYSCALLS).0.to_string()).collect();
        let mut conditions = Vec::new();
        for index in 0..random.below(4) as u32 {
            let operation = match random.below(7) {
                0 => Operation::Equal,
                1 => Operation::NotEqual,
                2 => Operation::Less,
                3 => Operation::LessOrEqual,
                4 => Operation::Greater,
                5 => Operation::GreaterOrEqual,
                _ => Operation::Masked(random.pick(&values)),
            };
            let value = match operation {
                Operation::Masked(mask) => random.pick(&values) & mask,
                _ => random.pick(&values),
            };
            conditions.push(Condition { index, operation, value });
        }
        rules.push(Rule { names, action: random.pick(&actions), conditions });
    }
    let abis = [
        vec![Abi::X86_64],
        vec![Abi::X86_64, Abi::X86],
        vec![Abi::X86_64, Abi::X86, Abi::X32],
        vec![Abi::Aarch64, Abi::Arm],
    ];
    let choice = random.below(abis.len());
    Filter { default: random.pick(&actions), abis: abis[choice].clone(), rules }
}

#[test]
fn random_profiles_mean_what_they_say() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..12 {
        let mut filter = random_filter(&mut random);
        // Too long for the kernel is an error of its own; halve until it fits.
        while compile::program(&filter).is_err() {
            filter.rules.truncate(filter.rules.len() / 2);
        }
        sample(&filter, &mut random);
    }
}

/// Like `check`, with random arguments out of the boundaries.
fn sample(filter: &Filter, random: &mut Random) {
    let program = program(filter);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm] {
        let (values, reading) = (boundaries(filter, abi), Reading::new(filter, abi));
        let bit = abi.number("read").unwrap_or(0) & 0x4000_0000;
        for number in (0..500).map(|n| n | bit).chain([u32::MAX]) {
            for _ in 0..40 {
                let arguments = std::array::from_fn(|_| random.pick(&values));
                let call = Call { audit: abi.audit(), number, arguments };
                assert_eq!(run(&program, &call).0, reading.of(&call), "{abi:?} {call:x?}");
            }
        }
    }
}

#[test]
fn a_program_beyond_the_kernels_limit_is_refused() {
    let rule = |i: usize| Rule {
        names: vec![SYSCALLS[i % 300].0.to_string()],
        action: Action::ALLOW,
        conditions: vec![Condition { index: 0, operation: Operation::Less, value: i as u64 }],
    };
    let rules = (0..LONGEST).map(rule).collect();
    let filter = Filter { default: Action::errno(1), abis: vec![Abi::X86_64], rules };
    let error = compile::program(&filter).map_or_else(|e| e.to_string(), |_| String::new());
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn malformed_profiles_are_refused_with_a_reason() {
    let cases = [
        ("{", "EOF"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "unsupported action"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}"#,
            "without names",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "above 5",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "name": "b",
            "action": "SCMP_ACT_ERRNO"}]}"#,
            "both name and names",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO",
            "includes": {"minKernel": "x"}}]}"#,
            "bad kernel version",
        ),
    ];
    for (text, reason) in cases {
        let error = resolve(text.as_bytes(), &conditions(0, Architecture::X86_64));
        let error = error.map_or_else(|e| e.to_string(), |_| String::new());
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn kernel_and_architecture_decide_rules() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.1"}},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
        {"names": ["open"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.0"}},
        {"names": ["close"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["nosuchcall"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let program = program(&filter(text, &conditions(0, Architecture::X86_64)));
    let on = |name| verdict(&program, Abi::X86_64, name, &[]) == Action::ALLOW;
    assert!(on("read") && !on("write") && !on("open") && !on("close"));
}

#[test]
fn the_table_is_sorted() {
    assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(Abi::Arm.number("set_tls"), Some(983_045));
    assert_eq!(Abi::X32.number("read"), Some(0x4000_0000));
    assert_eq!(Abi::Aarch64.number("open"), None);
}

/// Bounds what a call costs: a linear list of the same calls takes some 350 comparisons for the last one.
#[test]
fn a_call_takes_few_instructions() {
    let filter = default_filter(DOCKERS_CAPS, Architecture::X86_64);
    let program = program(&filter);
    let steps =
        |number: u32| run(&program, &Call { audit: Abi::X86_64.audit(), number, arguments: [0; 6] }).1;
    let allowed: Vec<usize> = (0..470).map(steps).collect();
    let worst = allowed.iter().max().copied().unwrap_or(0);
    let mean = allowed.iter().sum::<usize>() / allowed.len();
    eprintln!("{} instructions; a call takes {mean} in the mean, {worst} at most", program.len());
    assert!(program.len() < 700 && mean < 14, "{} instructions, {mean} a call", program.len());
}
