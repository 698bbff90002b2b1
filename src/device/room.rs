//! How much memory this process may really take of its machine, whatever limits it.
//!
//! The one idea: every limit is a pair of what it allows and what is taken of it, and the tightest one counts: what is available
//! without swapping, each control group that the process is in (v1 and v2, its parents too), its own limits of address space and
//! data, and what the kernel still promises where it promises no more than it has.

use crate::error::Room;
use std::path::{Path, PathBuf};

/// What a process takes beside the buffers it plans: text, tokenizers, products, what a small checkpoint is written from. Where
/// a limit is hard, a plan that would fit to the last byte ends in an abort or a kill.
const OWN_BYTES: u64 = 64 << 20;

/// Address space that an allocator reserves, and never touches, for a thread that begins.
const ARENA_BYTES: u64 = 128 << 20;

/// The tightest limit of this process; none where the system does not say.
pub fn host_room() -> Option<Room> {
    room_of(Path::new("/"))
}

fn room_of(root: &Path) -> Option<Room> {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let (memory, status, limits) = (text("proc/meminfo"), text("proc/self/status"), text("proc/self/limits"));
    let kib = |text: &str, key: &str| number_behind(text, key).map(|kib| kib << 10);
    let free_bytes = kib(&memory, "MemAvailable:").or_else(|| kib(&memory, "MemFree:"))?;
    let mut all = vec![Room { free_bytes, total_bytes: kib(&memory, "MemTotal:")?, bound: "", mapped: false }];
    let mut add = |limit: Option<u64>, used: Option<u64>, bound, mapped| {
        if let (Some(total_bytes), Some(used)) = (limit, used) {
            let free_bytes = total_bytes.saturating_sub(used.saturating_add(OWN_BYTES));
            all.push(Room { free_bytes, total_bytes, bound, mapped });
        }
    };
    let space = kib(&status, "VmSize:").map(|used| used.saturating_add(ARENA_BYTES));
    add(number_behind(&limits, "Max address space"), space, "RLIMIT_AS, ulimit -v", true);
    add(number_behind(&limits, "Max data size"), kib(&status, "VmData:"), "RLIMIT_DATA, ulimit -d", true);
    if text("proc/sys/vm/overcommit_memory").trim() == "2" {
        add(kib(&memory, "CommitLimit:"), kib(&memory, "Committed_AS:"), "vm.overcommit_memory = 2", true);
    }
    let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
    for group in groups.lines().filter_map(|line| Group::of(line, &mounts)) {
        for folder in group.folders() {
            let file = |name: &str| std::fs::read_to_string(root.join(&folder).join(name)).unwrap_or_default();
            let stat = file("memory.stat");
            // Files that are only cached are given back before anything is refused.
            let cached: u64 = group.version.cached.iter().filter_map(|key| number_behind(&stat, key)).sum();
            let used = number_behind(&file(group.version.used), "").map(|used| used.saturating_sub(cached));
            for (name, bound) in group.version.limits {
                add(number_behind(&file(name), ""), used, bound, false);
            }
        }
    }
    all.into_iter().min_by_key(|room| room.free_bytes)
}

/// The number behind a key at the start of a line; none for `max` and `unlimited`, nor for what no machine has.
fn number_behind(text: &str, key: &str) -> Option<u64> {
    let behind = |line: &str| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok();
    text.lines().find_map(behind).filter(|number| *number < 1 << 60)
}

/// Names of a version of control groups.
struct Version {
    file_system: &'static str,
    limits: &'static [(&'static str, &'static str)],
    used: &'static str,
    cached: [&'static str; 2],
}

const V1: Version = Version {
    file_system: "cgroup",
    limits: &[("memory.limit_in_bytes", "its cgroup's memory.limit_in_bytes")],
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file ", "total_active_file "],
};
const V2: Version = Version {
    file_system: "cgroup2",
    limits: &[("memory.max", "its cgroup's memory.max"), ("memory.high", "its cgroup's memory.high")],
    used: "memory.current",
    cached: ["inactive_file ", "active_file "],
};

/// A control group of this process that may limit memory.
struct Group {
    version: &'static Version,
    /// Where its hierarchy is mounted, without the leading `/`.
    mount: PathBuf,
    /// Where it lies below that.
    below: PathBuf,
}

impl Group {
    /// From a line of `/proc/self/cgroup`, `N:controllers:/path`, and all of `/proc/self/mountinfo`.
    fn of(line: &str, mounts: &str) -> Option<Group> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let version = match controllers {
            "" => &V2,
            _ if controllers.split(',').any(|name| name == "memory") => &V1,
            _ => return None,
        };
        mounts.lines().find_map(|mount| {
            // `id parent device root point options... - file_system source options`
            let (place, kind) = mount.split_once(" - ")?;
            let (place, kind): (Vec<&str>, Vec<&str>) = (place.split(' ').collect(), kind.split(' ').collect());
            let memory = version.file_system == "cgroup2" || kind.last()?.split(',').any(|option| option == "memory");
            let point = place.get(4)?.strip_prefix('/')?.replace("\\040", " ");
            // A container sees its own group as the mount's root, or a path that does not lie below the mount.
            let below = Path::new(path).strip_prefix(place.get(3)?).unwrap_or(Path::new(""));
            let below = if path.contains("..") { PathBuf::new() } else { below.into() };
            (*kind.first()? == version.file_system && memory).then(|| Group { version, mount: point.into(), below })
        })
    }

    /// Its folder and those of its parents, up to the mount.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.below.ancestors().map(|below| self.mount.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const OWN: u64 = OWN_BYTES / MIB;

    /// A machine with 8 GiB of 16 free, as files below a folder.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let usual = [
            (
                "proc/meminfo",
                "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\nCommitLimit: 4194304 kB\nCommitted_AS: 1048576 kB\n",
            ),
            ("proc/self/status", "VmPeak: 9 kB\nVmSize: 204800 kB\nVmData: 102400 kB\n"),
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax data size   unlimited unlimited bytes\nMax address space  unlimited unlimited bytes\n",
            ),
        ];
        for (name, text) in usual.iter().chain(files) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    /// Free and in all, in MiB, and what says so.
    fn room(files: &[(&str, &str)]) -> (u64, u64, &'static str) {
        let room = room_of(machine(files).path()).unwrap();
        (room.free_bytes / MIB, room.total_bytes / MIB, room.bound)
    }

    #[test]
    fn without_limits_it_is_what_is_available() {
        assert_eq!(room(&[]), (8192, 16384, ""));
        assert!(room_of(Path::new("/nowhere")).is_none());
        assert!(host_room().is_some() || !cfg!(target_os = "linux"));
    }

    #[test]
    fn limits_of_the_process_count_with_what_it_has_taken() {
        let address = ("proc/self/limits", "Max address space   734003200  unlimited  bytes\n");
        assert_eq!(room(&[address]), (500 - OWN - ARENA_BYTES / MIB, 700, "RLIMIT_AS, ulimit -v"));
        let data = (
            "proc/self/limits",
            "Max data size  209715200  209715200  bytes\nMax address space 1073741824 unlimited bytes\n",
        );
        assert_eq!(room(&[data]), (100 - OWN, 200, "RLIMIT_DATA, ulimit -d"));
        let none_left = ("proc/self/limits", "Max data size  1048576  1048576  bytes\n");
        assert_eq!(room(&[none_left]), (0, 1, "RLIMIT_DATA, ulimit -d"));
        assert_eq!(room(&[("proc/sys/vm/overcommit_memory", "2\n")]), (3072 - OWN, 4096, "vm.overcommit_memory = 2"));
        assert_eq!(room(&[("proc/sys/vm/overcommit_memory", "0\n")]).2, "");
    }

    const UNIFIED: &str = "30 1 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_tightest_of_a_group_and_its_parents_counts_and_cached_files_are_free() {
        let files = [
            ("proc/self/cgroup", "0::/user.slice/job/step\n"),
            ("proc/self/mountinfo", UNIFIED),
            ("sys/fs/cgroup/user.slice/job/step/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/job/step/memory.current", "104857600\n"),
            ("sys/fs/cgroup/user.slice/job/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/user.slice/job/memory.current", "838860800\n"),
            (
                "sys/fs/cgroup/user.slice/job/memory.stat",
                "anon 1\nfile 2\ninactive_file 104857600\nactive_file 209715200\n",
            ),
            ("sys/fs/cgroup/user.slice/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "838860800\n"),
        ];
        assert_eq!(room(&files), (524 - OWN, 1024, "its cgroup's memory.max"));
        let high = ("sys/fs/cgroup/user.slice/job/step/memory.high", "209715200\n");
        assert_eq!(room(&[&files[..], &[high]].concat()), (100 - OWN, 200, "its cgroup's memory.high"));
    }

    #[test]
    fn a_container_sees_its_group_as_the_root_of_the_mount() {
        for (group, mount) in [
            // With a namespace of its own, seen from outside of it, and a bind mount of the group alone.
            ("0::/\n", UNIFIED.to_string()),
            ("0::/../../other\n", UNIFIED.to_string()),
            ("0::/docker/1a\n", UNIFIED.replace(" / ", " /docker/1a ")),
        ] {
            let files = [
                ("proc/self/cgroup", group),
                ("proc/self/mountinfo", &mount),
                ("sys/fs/cgroup/memory.max", "536870912\n"),
                ("sys/fs/cgroup/memory.current", "12582912\n"),
            ];
            assert_eq!(room(&files), (500 - OWN, 512, "its cgroup's memory.max"), "{group}");
        }
    }

    #[test]
    fn version_one_is_read_where_its_memory_controller_is_mounted() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let files = [
            ("proc/self/cgroup", "4:memory,hugetlb:/slurm/job_1\n1:cpu:/x\n0::/\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/mem ory/slurm/job_1/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/mem ory/slurm/job_1/memory.usage_in_bytes", "1\n"),
            ("sys/fs/cgroup/mem ory/slurm/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/mem ory/slurm/memory.usage_in_bytes", "314572800\n"),
            ("sys/fs/cgroup/mem ory/slurm/memory.stat", "inactive_file 1\ntotal_inactive_file 104857600\n"),
        ];
        assert_eq!(room(&files), (824 - OWN, 1024, "its cgroup's memory.limit_in_bytes"));
    }
}
