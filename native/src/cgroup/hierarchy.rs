//! The hierarchies mounted at /sys/fs/cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::devices::Programs;
use super::group::Group;
use super::parent::Parent;
use crate::error::{Error, Result};
use crate::plan::Resources;

const ROOT: &str = "/sys/fs/cgroup";

/// Which interface the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
    /// v1 controllers and a cgroup2 mount beside them.
    Hybrid,
}

impl Version {
    /// `1`, `2` or `hybrid`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub mount_point: String,
    pub unified: bool,
    /// Empty for a named v1 hierarchy.
    pub controllers: Vec<String>,
    /// `systemd` of `name=systemd`.
    pub name: Option<String>,
}

impl Hierarchy {
    /// Where a container finds its part of it.
    pub fn place(&self) -> Place {
        let below = self.mount_point.strip_prefix(ROOT).unwrap_or(&self.mount_point);
        let directory = below.trim_start_matches('/').to_string();
        let links = match self.controllers.as_slice() {
            [_, _, ..] if !self.unified => {
                self.controllers.iter().filter(|c| **c != directory).cloned().collect()
            }
            _ => Vec::new(),
        };
        Place { directory, links }
    }
}

/// The place of a hierarchy below /sys/fs/cgroup, in a container as on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `memory`, `cpu,cpuacct`, `systemd`, `unified`; empty for a cgroup2 at /sys/fs/cgroup itself.
    pub directory: String,
    /// Symlinks to make beside a v1 co-mount: `cpu` and `cpuacct`.
    pub links: Vec<String>,
}

/// What is shared by all groups.
#[derive(Debug)]
pub(super) struct Host {
    pub hierarchies: Vec<Hierarchy>,
    pub programs: Programs,
}

impl Host {
    /// Index and version of the hierarchy that has `controller`.
    pub fn find(&self, controller: &str) -> Option<(usize, bool)> {
        let has = |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|c| c == controller);
        let index = self.hierarchies.iter().position(has)?;
        Some((index, self.hierarchies[index].unified))
    }

    /// Index of the cgroup2 hierarchy; in a hybrid it may have no controller, but freezes and kills.
    pub fn unified(&self) -> Option<usize> {
        self.hierarchies.iter().position(|hierarchy| hierarchy.unified)
    }
}

/// All hierarchies of this host. Cheap to keep, not to probe: one per process.
#[derive(Debug)]
pub struct Hierarchies {
    host: Arc<Host>,
    /// The last parent used; an instance has one for nearly all its groups.
    parent: Mutex<Option<Arc<Parent>>>,
}

impl Hierarchies {
    /// Read what is mounted at /sys/fs/cgroup.
    pub fn probe() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let text = fs::read_to_string(path).map_err(|e| Error::os("read", path, e))?;
        let mut hierarchies = parse_mountinfo(&text);
        for hierarchy in hierarchies.iter_mut().filter(|h| h.unified) {
            let file = format!("{}/cgroup.controllers", hierarchy.mount_point);
            let text = fs::read_to_string(&file).map_err(|e| Error::os("read", &file, e))?;
            hierarchy.controllers = text.split_whitespace().map(String::from).collect();
        }
        Self::of(hierarchies)
    }

    pub(super) fn of(hierarchies: Vec<Hierarchy>) -> Result<Self> {
        if hierarchies.is_empty() {
            return Err(Error::Invalid(format!("no cgroup hierarchy is mounted at {ROOT}")));
        }
        let host = Host { hierarchies, programs: Programs::default() };
        Ok(Self { host: Arc::new(host), parent: Mutex::new(None) })
    }

    /// As if cgroup2 was not mounted.
    #[cfg(test)]
    pub(super) fn without_unified(self) -> Result<Self> {
        Self::of(self.host.hierarchies.iter().filter(|h| !h.unified).cloned().collect())
    }

    /// Mount point and version of a controller's hierarchy.
    #[cfg(test)]
    pub(super) fn mount_of(&self, controller: &str) -> Option<(&str, bool)> {
        let (index, unified) = self.host.find(controller)?;
        Some((&self.host.hierarchies[index].mount_point, unified))
    }

    #[cfg(test)]
    pub(super) fn mounts(&self) -> impl Iterator<Item = &str> {
        self.host.hierarchies.iter().map(|h| h.mount_point.as_str())
    }

    #[must_use]
    pub fn version(&self) -> Version {
        let unified = self.host.unified().is_some();
        let v1 = self.host.hierarchies.iter().any(|h| !h.unified && !h.controllers.is_empty());
        match (unified, v1) {
            (true, false) => Version::V2,
            (true, true) => Version::Hybrid,
            (false, _) => Version::V1,
        }
    }

    /// Controllers that can be used, of all hierarchies. What v2 does in its core is listed by its v1 names
    /// (`devices`, `freezer`), too.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        for hierarchy in &self.host.hierarchies {
            all.extend(hierarchy.controllers.iter().cloned());
            if hierarchy.unified {
                all.insert("freezer".into());
            }
        }
        if self.version() == Version::V2 {
            all.insert("devices".into());
        }
        all.into_iter().collect()
    }

    /// Make the group `path` (absolute, below every hierarchy's root) and write its limits.
    ///
    /// Parents are made as needed and stay. An empty leftover of the same name is taken over. On failure
    /// everything of this group is removed again.
    pub fn create(&self, path: &str, resources: &Resources) -> Result<Group> {
        let (parent, name) = self.parent_of(path, true)?;
        match Group::create(parent, name, resources) {
            // The cached parent was removed behind our back: its fds are of dead directories.
            Err(error) if error.errno() == Errno::NOENT.raw_os_error() => {
                *self.parent.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let (parent, name) = self.parent_of(path, true)?;
                Group::create(parent, name, resources)
            }
            made => made,
        }
    }

    /// The group `path`, made before: after a hand-over, or for a look at it. One that is missing has no
    /// processes and can be killed and removed.
    pub fn open(&self, path: &str) -> Result<Group> {
        let (parent, name) = self.parent_of(path, false)?;
        let group = Group::open(parent, name)?;
        if group.exists() {
            return Ok(group);
        }
        // Perhaps the cached parent was removed and made anew.
        *self.parent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (parent, name) = self.parent_of(path, false)?;
        Group::open(parent, name)
    }

    /// Names of the groups right below `parent`, over all hierarchies. A missing parent has none.
    pub fn list(&self, parent: &str) -> Result<Vec<String>> {
        let relative = checked(parent)?;
        let mut names = BTreeSet::new();
        for hierarchy in &self.host.hierarchies {
            let directory = Path::new(&hierarchy.mount_point).join(relative);
            names.extend(subdirectories(&directory)?);
        }
        Ok(names.into_iter().collect())
    }

    /// The parent directory of `path` in every hierarchy, made if `make`, and the last name of `path`.
    fn parent_of<'p>(&self, path: &'p str, make: bool) -> Result<(Arc<Parent>, &'p str)> {
        let relative = checked(path)?;
        let (directory, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        if name.is_empty() {
            return Err(Error::Invalid(format!("cgroup path {path:?} has no name")));
        }
        let mut cached = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = cached.as_ref().filter(|parent| parent.is_at(directory)) {
            return Ok((parent.clone(), name));
        }
        let parent = Arc::new(Parent::open(self.host.clone(), directory, make)?);
        if parent.is_everywhere() {
            *cached = Some(parent.clone());
        }
        Ok((parent, name))
    }
}

/// Mount a private named v1 hierarchy with `favordynmods` on `directory`, which exists.
///
/// It turns off the grace period that the first write to `cgroup.procs` waits for otherwise (6 to 15 ms),
/// for all hierarchies, as long as it is mounted. Call it in a mount namespace of one's own that is
/// private. False where the kernel does not know the option (before 6.0): starts are slower then.
pub fn favor_dynamic_modifications(directory: &Path, name: &str) -> Result<bool> {
    use rustix::mount::{mount, MountFlags};
    let options = std::ffi::CString::new(format!("none,name={name},favordynmods"))
        .map_err(|_| Error::Invalid(format!("cgroup hierarchy name {name:?} holds a NUL")))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("cgroup", directory, "cgroup", flags, options.as_c_str()) {
        Ok(()) => Ok(true),
        // EINVAL: unknown option; ENODEV: a kernel without v1, where clone3 enters the group at birth.
        Err(Errno::INVAL | Errno::NODEV) => Ok(false),
        Err(error) => Err(Error::os("mount cgroup at", directory.display().to_string(), error)),
    }
}

/// `path` without its leading slash; refuses anything that could leave the hierarchy.
fn checked(path: &str) -> Result<&str> {
    let relative = path.trim_matches('/');
    if relative.split('/').any(|part| part == ".." || part == ".") || path.contains('\0') {
        return Err(Error::Invalid(format!("bad cgroup path {path:?}")));
    }
    Ok(relative)
}

/// Names of the directories in `directory`; none where it does not exist, or goes meanwhile.
pub(super) fn subdirectories(directory: &Path) -> Result<Vec<String>> {
    let shown = || directory.display().to_string();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::os("read", shown(), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            other => other.map_err(|e| Error::os("read", shown(), e))?,
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The cgroup mounts at or below /sys/fs/cgroup; the first mount of a hierarchy counts. v2's controllers are
/// not in here.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        if let Some(hierarchy) = parse_mount(line) {
            let same = |h: &Hierarchy| {
                h.unified == hierarchy.unified
                    && h.controllers == hierarchy.controllers
                    && h.name == hierarchy.name
            };
            if !found.iter().any(same) {
                found.push(hierarchy);
            }
        }
    }
    found
}

/// `proc_pid_mountinfo(5)`: `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount_point = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    let below_root = mount_point == ROOT || mount_point.starts_with("/sys/fs/cgroup/");
    if !below_root || !matches!(kind, "cgroup" | "cgroup2") {
        return None;
    }
    let mut hierarchy = Hierarchy {
        mount_point: mount_point.to_string(),
        unified: kind == "cgroup2",
        controllers: Vec::new(),
        name: None,
    };
    if !hierarchy.unified {
        for option in options.split(',') {
            match option.split_once('=') {
                Some(("name", name)) => hierarchy.name = Some(name.to_string()),
                None if !NOT_CONTROLLERS.contains(&option) => hierarchy.controllers.push(option.to_string()),
                _ => {}
            }
        }
    }
    Some(hierarchy)
}

/// Super-block options of a v1 mount that name no controller.
const NOT_CONTROLLERS: [&str; 9] =
    ["rw", "ro", "none", "all", "clone_children", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods"];

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 31 0:34 / /sys/fs/cgroup/again rw,relatime - cgroup cgroup rw,freezer
51 31 0:39 / /run/private rw,relatime - cgroup cgroup rw,name=proa-x,favordynmods
";

    #[test]
    fn a_hybrid_is_read_from_mountinfo() {
        let host = Hierarchies::of(parse_mountinfo(HYBRID)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(host.version(), Version::Hybrid);
        assert_eq!(host.controllers(), ["cpu", "cpuacct", "freezer"]);
        let places: Vec<Place> = host.host.hierarchies.iter().map(Hierarchy::place).collect();
        let directories: Vec<&str> = places.iter().map(|place| place.directory.as_str()).collect();
        assert_eq!(directories, ["cpu,cpuacct", "freezer", "systemd", "unified"]);
        assert_eq!(places[0].links, ["cpu", "cpuacct"]);
        assert!(places[1..].iter().all(|place| place.links.is_empty()));
    }

    #[test]
    fn pure_v2_is_the_root_itself() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let host = Hierarchies::of(parse_mountinfo(text)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(host.version(), Version::V2);
        assert_eq!(host.host.hierarchies[0].place(), Place { directory: String::new(), links: Vec::new() });
        assert!(host.controllers().contains(&"devices".to_string()));
    }

    #[test]
    fn a_path_that_leaves_the_hierarchy_is_refused() {
        for path in ["/proa/../x", "..", "/proa/./x", "/a\0b"] {
            assert!(checked(path).is_err(), "{path:?}");
        }
        assert_eq!(checked("/proa/x/").ok(), Some("proa/x"));
    }

    #[test]
    fn no_hierarchy_is_an_error() {
        assert!(Hierarchies::of(parse_mountinfo("")).is_err());
    }
}
