//! Where cgroups are mounted, which directory has which id, and how many are dying.

use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use super::{Host, Result, read, read_text};

/// Most directories a walk visits: four times what there can be of memory cgroups
/// (`MEM_CGROUP_ID_MAX`, 65,535).
const MAX_DIRECTORIES: u64 = 1 << 18;

/// How often a walk is done again because cgroups came or went meanwhile.
const CALM_ATTEMPTS: u32 = 3;

/// Which cgroup hierarchies a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only hierarchies of version 1.
    V1,
    /// Only the unified hierarchy.
    V2,
    /// Both.
    Hybrid,
}

impl Mode {
    /// `v1`, `v2` or `hybrid`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Which version the memory controller is used through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryVersion {
    /// A version 1 hierarchy, also on a hybrid machine.
    V1,
    /// The unified hierarchy.
    V2,
}

/// How cgroups are laid out on a machine. Paths are that machine's own: [`Host::join`] them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupLayout {
    /// `None` when no cgroup hierarchy is mounted.
    pub mode: Option<Mode>,
    /// Mount of the hierarchy that the memory controller is on; the unified one when it is on
    /// none. `None` when that is not mounted here.
    pub memory_mount: Option<PathBuf>,
    /// Number of that hierarchy; 0 is the unified one.
    pub memory_hierarchy: u32,
    /// Mount of the unified hierarchy.
    pub unified_mount: Option<PathBuf>,
}

/// A row of `/proc/cgroups` (`proc_cgroupstats_show()` in `kernel/cgroup/cgroup-v1.c`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its name.
    pub name: String,
    /// Number of its hierarchy; 0: unified, or none.
    pub hierarchy: u32,
    /// Cgroups of that hierarchy, its root and the dying ones included.
    pub cgroups: u64,
    /// Whether it is switched on (`cgroup_disable=` switches off).
    pub enabled: bool,
}

/// What a walk over a hierarchy found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Path from the mount, beginning with `/`, by inode number, which is the cgroup's id.
    pub paths: HashMap<u64, String>,
    /// Directories that could not be read; those removed meanwhile are not counted.
    pub unreadable: u64,
    /// Whether it was given up at the bound of 262,144 directories.
    pub truncated: bool,
}

/// What is used of `cgroup.stat` (version 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupStat {
    /// Cgroups below this one.
    pub descendants: Option<u64>,
    /// Removed below this one and still held by the kernel (from 4.14).
    pub dying: Option<u64>,
    /// Memory controller states of cgroups that are there, its own included (from 6.12).
    pub memory: Option<u64>,
    /// Memory controller states of removed cgroups likewise, also those of cgroups that are still there but had the
    /// controller switched off (from 6.12).
    pub dying_memory: Option<u64>,
}

impl CgroupLayout {
    /// Finds out the layout from `/proc/self/mountinfo` (where the machine's root is not this
    /// process's, `/proc/1/mountinfo`) and `/proc/cgroups`.
    ///
    /// # Errors
    ///
    /// When the mount table cannot be read, or `/proc/cgroups` exists and cannot.
    pub fn detect(host: &Host) -> Result<Self> {
        // As bytes: a mount point need not be UTF-8.
        let mounts = read(&host.proc(format!("{}/mountinfo", host.first_process())))?;
        let controllers = match read_text(&host.proc("cgroups")) {
            Ok(text) => parse_controllers(&text),
            // A kernel without cgroups.
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self::from_parts(&mounts, &controllers))
    }

    /// The layout told by a mount table and the controllers. From 6.14 a controller that exists
    /// on version 2 only is not listed in `/proc/cgroups`; it then counts as hierarchy 0.
    pub fn from_parts(mountinfo: &[u8], controllers: &[Controller]) -> Self {
        let mounts = parse_mounts(mountinfo);
        let unified_mount = preferred(&mounts, |mount| mount.version == 2);
        let has_v1 = mounts.iter().any(|mount| mount.version == 1);
        let mode = match (has_v1, unified_mount.is_some()) {
            (true, true) => Some(Mode::Hybrid),
            (true, false) => Some(Mode::V1),
            (false, true) => Some(Mode::V2),
            (false, false) => None,
        };
        let memory = controllers.iter().find(|controller| controller.name == "memory");
        let memory_hierarchy = memory.map_or(0, |controller| controller.hierarchy);
        let memory_mount = if memory_hierarchy == 0 {
            unified_mount.clone()
        } else {
            preferred(&mounts, |mount| mount.version == 1 && mount.has("memory"))
        };
        Self { mode, memory_mount, memory_hierarchy, unified_mount }
    }

    /// Which version the memory controller is used through; `None` without cgroups.
    pub fn memory_version(&self) -> Option<MemoryVersion> {
        self.mode?;
        Some(if self.memory_hierarchy == 0 { MemoryVersion::V2 } else { MemoryVersion::V1 })
    }

    /// Walks the memory controller's hierarchy. Empty when it is not mounted.
    pub fn scan(&self, host: &Host) -> Scan {
        self.memory_mount.as_ref().map(|mount| scan(&host.join(mount))).unwrap_or_default()
    }

    /// The path of one cgroup, by walking until it is found: for a cgroup made after the scan.
    pub fn find(&self, host: &Host, id: u64) -> Option<String> {
        find(&host.join(self.memory_mount.as_ref()?), id)
    }

    /// Cgroups of the memory controller's hierarchy that have been removed and are still held by
    /// the kernel. `None` when the kernel does not say, or when only a part of the hierarchy can
    /// be seen (in a container).
    pub fn dying(&self, host: &Host) -> Option<u64> {
        let mount = host.join(self.memory_mount.as_ref()?);
        if !self.is_whole(&mount) {
            return None;
        }
        if self.memory_hierarchy == 0 {
            return parse_stat(&read_text(&mount.join("cgroup.stat")).ok()?).dying;
        }
        self.scan_with_dying(host).1
    }

    /// [`Self::scan`] and [`Self::dying`] in one walk.
    pub fn scan_with_dying(&self, host: &Host) -> (Scan, Option<u64>) {
        if self.memory_hierarchy == 0 {
            return (self.scan(host), self.dying(host));
        }
        let whole =
            self.memory_mount.as_ref().is_some_and(|mount| self.is_whole(&host.join(mount)));
        let mut attempts = 0;
        loop {
            let before = whole.then(|| all(host)).flatten();
            let seen = self.scan(host);
            let after = whole.then(|| all(host)).flatten();
            attempts += 1;
            // Cgroups may come and go during the walk; the answer is then off by that many.
            if before == after || attempts == CALM_ATTEMPTS {
                let complete = seen.unreadable == 0 && !seen.truncated;
                let directories = seen.paths.len() as u64;
                let dying = after.filter(|_| complete).map(|all| all.saturating_sub(directories));
                return (seen, dying);
            }
        }
    }

    /// Whether the root of the memory controller's hierarchy is what is mounted, and not a part
    /// of it.
    fn is_whole(&self, mount: &Path) -> bool {
        if self.memory_hierarchy == 0 {
            // Every cgroup but the root has it.
            !mount.join("cgroup.events").exists()
        } else {
            // Only the root has it.
            mount.join("release_agent").exists()
        }
    }
}

/// Cgroups of the memory controller's hierarchy, dying ones included (version 1).
fn all(host: &Host) -> Option<u64> {
    let controllers = parse_controllers(&read_text(&host.proc("cgroups")).ok()?);
    controllers.iter().find(|controller| controller.name == "memory").map(|row| row.cgroups)
}

/// Walks a hierarchy below `mount`, a path of this machine.
pub fn scan(mount: &Path) -> Scan {
    let mut paths = HashMap::new();
    let outcome = walk(mount, |id, path| {
        paths.insert(id, path.to_owned());
        ControlFlow::Continue(())
    });
    Scan { paths, unreadable: outcome.unreadable, truncated: outcome.truncated }
}

/// The path, from `mount`, of the directory with this inode number.
pub fn find(mount: &Path, id: u64) -> Option<String> {
    let mut found = None;
    walk(mount, |inode, path| {
        if inode == id {
            found = Some(path.to_owned());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

#[derive(Default)]
struct Walk {
    unreadable: u64,
    truncated: bool,
}

/// Visits every directory below `mount`, itself included, with its inode number and its path.
/// Symbolic links are not followed (their type is not "directory").
fn walk(mount: &Path, mut visit: impl FnMut(u64, &str) -> ControlFlow<()>) -> Walk {
    let mut outcome = Walk::default();
    match fs::metadata(mount) {
        Ok(root) if Metadata::is_dir(&root) => {
            if visit(root.ino(), "/").is_break() {
                return outcome;
            }
        }
        _ => {
            outcome.unreadable = 1;
            return outcome;
        }
    }
    let mut visited: u64 = 1;
    let mut pending = vec![(mount.to_path_buf(), String::new())];
    while let Some((directory, path)) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed since its parent was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                outcome.unreadable += 1;
                continue;
            }
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if visited == MAX_DIRECTORIES {
                outcome.truncated = true;
                return outcome;
            }
            visited += 1;
            let child = format!("{path}/{}", entry.file_name().to_string_lossy());
            if visit(entry.ino(), &child).is_break() {
                return outcome;
            }
            pending.push((entry.path(), child));
        }
    }
    outcome
}

/// Parses `/proc/cgroups`. Lines that make no sense are passed over.
pub fn parse_controllers(text: &str) -> Vec<Controller> {
    let parse_line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some(Controller {
            name: words.next().filter(|name| !name.starts_with('#'))?.to_owned(),
            hierarchy: words.next()?.parse().ok()?,
            cgroups: words.next()?.parse().ok()?,
            enabled: words.next()? == "1",
        })
    };
    text.lines().filter_map(parse_line).collect()
}

/// Parses `cgroup.stat`.
pub fn parse_stat(text: &str) -> CgroupStat {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            if name == key { value.trim().parse().ok() } else { None }
        })
    };
    CgroupStat {
        descendants: value("nr_descendants"),
        dying: value("nr_dying_descendants"),
        memory: value("nr_subsys_memory"),
        dying_memory: value("nr_dying_subsys_memory"),
    }
}

/// A mounted cgroup hierarchy.
struct Mount {
    version: u8,
    /// Whether the hierarchy's root is what is mounted, and not a part of it.
    whole: bool,
    point: PathBuf,
    /// Options of the file system: for version 1 they name the controllers.
    options: String,
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

/// The first mount of a whole hierarchy among those wanted, else the first: a container may see
/// its own part bound somewhere beside the whole.
fn preferred(mounts: &[Mount], wanted: impl Fn(&Mount) -> bool) -> Option<PathBuf> {
    let whole = mounts.iter().find(|mount| wanted(mount) && mount.whole);
    whole.or_else(|| mounts.iter().find(|mount| wanted(mount))).map(|mount| mount.point.clone())
}

/// The cgroup mounts in `/proc/PID/mountinfo` (format in `Documentation/filesystems/proc.rst`,
/// section 3.5): `id parent major:minor root point options [tags…] - type source options`.
fn parse_mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let parse_line = |line: &[u8]| {
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let root = words.nth(3)?;
        let point = words.next()?;
        // Spaces in names are escaped, so a lone "-" can only be the separator.
        words.find(|&word| word == b"-")?;
        let version = match words.next()? {
            b"cgroup" => 1,
            b"cgroup2" => 2,
            _ => return None,
        };
        let options = String::from_utf8_lossy(words.nth(1).unwrap_or_default()).into_owned();
        let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(point)));
        Some(Mount { version, whole: root == b"/", point, options })
    };
    mountinfo.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Undoes `mangle_path()` of `fs/seq_file.c`: `\` and three octal digits stand for a byte.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] = tail
        {
            bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:30 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
41 40 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
42 40 0:32 /docker/1 /elsewhere rw,relatime - cgroup cgroup rw,memory
43 40 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup cgroup rw,memory
44 40 0:33 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
45 40 0:34 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const UNIFIED: &[u8] =
        b"35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,memory_recursiveprot\n";
    const CONTROLLERS: &str = "\
#subsys_name\thierarchy\tnum_cgroups\tenabled
cpuset\t3\t1\t1
memory\t4\t12\t1
net_cls\t0\t1\t0
broken line
";

    #[test]
    fn memory_on_a_v1_hierarchy_of_a_hybrid_machine() {
        let layout = CgroupLayout::from_parts(HYBRID, &parse_controllers(CONTROLLERS));
        assert_eq!(layout.mode, Some(Mode::Hybrid));
        assert_eq!(layout.memory_version(), Some(MemoryVersion::V1));
        assert_eq!(layout.memory_hierarchy, 4);
        assert_eq!(layout.memory_mount.as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(layout.unified_mount.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn memory_on_the_unified_hierarchy_listed_or_not() {
        for controllers in ["memory\t0\t88\t1\n", "cpuset\t0\t88\t1\n", ""] {
            let layout = CgroupLayout::from_parts(UNIFIED, &parse_controllers(controllers));
            assert_eq!(layout.mode.map(Mode::as_str), Some("v2"));
            assert_eq!(layout.memory_version(), Some(MemoryVersion::V2));
            assert_eq!(layout.memory_mount.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        }
    }

    #[test]
    fn version_1_only_and_nothing_at_all() {
        let v1 = b"1 2 0:3 / /cgroup/me\\040mory rw - cgroup none rw,memory,cpu\n";
        let layout = CgroupLayout::from_parts(v1, &parse_controllers("memory 2 5 1"));
        assert_eq!(layout.mode, Some(Mode::V1));
        assert_eq!(layout.memory_mount.as_deref(), Some(Path::new("/cgroup/me mory")));
        assert_eq!(layout.unified_mount, None);
        let none = CgroupLayout::from_parts(b"1 2 0:3 / / rw - ext4 /dev/vda rw\n", &[]);
        assert_eq!(none, CgroupLayout::default());
        assert_eq!(none.memory_version(), None);
    }

    #[test]
    fn a_v1_hierarchy_that_is_not_mounted_here() {
        let layout = CgroupLayout::from_parts(UNIFIED, &parse_controllers(CONTROLLERS));
        assert_eq!((layout.memory_hierarchy, layout.memory_mount), (4, None));
    }

    #[test]
    fn escapes_of_the_mount_table() {
        assert_eq!(unescape(b"/a\\040b\\011\\134\\043"), b"/a b\t\\#");
        assert_eq!(unescape(b"\\04\\999\\400\\"), b"\\04\\999\\400\\");
    }

    #[test]
    fn controllers_and_stat() {
        let controllers = parse_controllers(CONTROLLERS);
        assert_eq!(controllers.len(), 3);
        assert_eq!(controllers[1].cgroups, 12);
        assert!(controllers[1].enabled && !controllers[2].enabled);
        let stat = parse_stat(
            "nr_descendants 7\nnr_subsys_memory 6\nnr_dying_descendants 3\nnr_dying_subsys_memory 2\n",
        );
        assert_eq!(
            stat,
            CgroupStat {
                descendants: Some(7),
                dying: Some(3),
                memory: Some(6),
                dying_memory: Some(2)
            }
        );
        assert_eq!(parse_stat("nr_descendants x\n"), CgroupStat::default());
    }

    /// A tree with the files and directories given, below a fresh directory.
    fn tree(directories: &[&str], files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        for directory in directories {
            fs::create_dir_all(host.join(directory)).unwrap();
        }
        for (path, text) in files {
            fs::create_dir_all(host.join(path).parent().unwrap()).unwrap();
            fs::write(host.join(path), text).unwrap();
        }
        (tree, host)
    }

    #[test]
    fn a_scan_maps_inodes_to_paths() {
        let (_tree, host) = tree(&["/cg/a/b", "/cg/c"], &[("/cg/a/tasks", "")]);
        std::os::unix::fs::symlink("/", host.join("/cg/link")).unwrap();
        let mount = host.join("/cg");
        let seen = scan(&mount);
        assert_eq!((seen.unreadable, seen.truncated), (0, false));
        assert_eq!(seen.paths.len(), 4);
        for (path, expected) in [("/cg", "/"), ("/cg/a", "/a"), ("/cg/a/b", "/a/b")] {
            let id = fs::metadata(host.join(path)).unwrap().ino();
            assert_eq!(seen.paths[&id], expected);
            assert_eq!(find(&mount, id).as_deref(), Some(expected));
        }
        assert_eq!(find(&mount, u64::MAX), None);
        assert_eq!(scan(&host.join("/nowhere")).unreadable, 1);
    }

    #[test]
    fn dying_on_v1_is_what_has_no_directory() {
        let (_tree, host) = tree(
            &["/sys/fs/cgroup/memory/a/b"],
            &[("/proc/cgroups", CONTROLLERS), ("/sys/fs/cgroup/memory/release_agent", "")],
        );
        fs::create_dir(host.proc("self")).unwrap();
        fs::write(host.proc("self/mountinfo"), HYBRID).unwrap();
        let layout = CgroupLayout::detect(&host).unwrap();
        assert_eq!(layout.dying(&host), Some(9));
        assert_eq!(layout.scan(&host).paths.len(), 3);
        // Mounted from somewhere below the root: most of the hierarchy is out of sight.
        fs::remove_file(host.sys("fs/cgroup/memory/release_agent")).unwrap();
        assert_eq!(layout.dying(&host), None);
    }

    #[test]
    fn dying_on_v2_is_what_the_root_says() {
        let (_tree, host) = tree(
            &[],
            &[("/sys/fs/cgroup/cgroup.stat", "nr_descendants 7\nnr_dying_descendants 3\n")],
        );
        let layout = CgroupLayout::from_parts(UNIFIED, &[]);
        assert_eq!(layout.dying(&host), Some(3));
        fs::write(host.sys("fs/cgroup/cgroup.events"), "populated 1\n").unwrap();
        assert_eq!(layout.dying(&host), None);
        assert_eq!(CgroupLayout::default().dying(&host), None);
        assert_eq!(CgroupLayout::default().find(&host, 1), None);
    }

    #[test]
    fn the_running_system_has_a_layout() {
        CgroupLayout::detect(&Host::default()).unwrap();
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, text in "(?s).{0,200}") {
            parse_stat(&text);
            unescape(&bytes);
            CgroupLayout::from_parts(&bytes, &parse_controllers(&text));
            CgroupLayout::from_parts(text.as_bytes(), &[]);
        }

        #[test]
        fn never_panics_on_what_looks_like_mounts(line in "([a-z/:0-9]{1,4} ){0,7}(- )?(cgroup2? ){0,2}([a-z,]{0,6} ?){0,3}") {
            parse_mounts(line.as_bytes());
        }
    }
}
