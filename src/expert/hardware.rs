//! What this process may use of the machine: cores, memory, graphics cards. A container's limits
//! and a task's affinity count, not what the board has.

use quorate_core::plan::{Gpu, Machine};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Hardware {
    pub machine: Machine,
    pub cpu_model: String,
    /// Logical processors this process may run on.
    pub logical_cpus: u32,
    pub total_bytes: u64,
    /// Instruction sets that matter to llama.cpp, as found.
    pub simd: Vec<&'static str>,
    /// The cgroup's quota in processors, if it is below the cores.
    pub cpu_quota: Option<f64>,
    /// The cgroup's memory limit, if there is one.
    pub memory_limit_bytes: Option<u64>,
}

/// GPU back ends in this binary.
pub fn compiled_backends() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "cuda") {
        names.push("cuda");
    }
    if cfg!(feature = "vulkan") {
        names.push("vulkan");
    }
    if cfg!(feature = "metal") {
        names.push("metal");
    }
    names
}

pub fn probe() -> Hardware {
    let mut hardware = platform::probe();
    hardware.machine.gpus = gpus();
    hardware
}

#[cfg(feature = "llama")]
fn gpus() -> Vec<Gpu> {
    use llama_cpp_2::LlamaBackendDeviceType as Type;
    if compiled_backends().is_empty() {
        return Vec::new(); // asking would only load drivers
    }
    llama_cpp_2::list_llama_ggml_backend_devices()
        .into_iter()
        .filter(|device| matches!(device.device_type, Type::Gpu | Type::IntegratedGpu))
        .map(|device| Gpu {
            shared: matches!(device.device_type, Type::IntegratedGpu) || device.backend == "Metal",
            name: device.name,
            free_bytes: device.memory_free as u64,
        })
        .collect()
}

#[cfg(not(feature = "llama"))]
fn gpus() -> Vec<Gpu> {
    Vec::new()
}

fn simd() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let mut note = |name, here| {
            if here {
                found.push(name);
            }
        };
        note("avx", std::arch::is_x86_feature_detected!("avx"));
        note("avx2", std::arch::is_x86_feature_detected!("avx2"));
        note("fma", std::arch::is_x86_feature_detected!("fma"));
        note("f16c", std::arch::is_x86_feature_detected!("f16c"));
        note("avx512f", std::arch::is_x86_feature_detected!("avx512f"));
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon"); // part of the architecture
    found
}

/// Processors when nothing better is known.
fn fallback_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

#[cfg(target_os = "macos")]
mod platform {
    use super::{Hardware, Machine, fallback_cpus, simd};
    use std::process::Command;

    pub(super) fn probe() -> Hardware {
        // Performance cores only: a step waits for its slowest thread.
        let cores = sysctl("hw.perflevel0.physicalcpu").or_else(|| sysctl("hw.physicalcpu"));
        let total_bytes = sysctl("hw.memsize").unwrap_or(0);
        let cores = cores
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_else(fallback_cpus);
        Hardware {
            machine: Machine {
                free_bytes: free(total_bytes),
                cores,
                gpus: Vec::new(),
            },
            cpu_model: run("sysctl", &["-n", "machdep.cpu.brand_string"]).unwrap_or_default(),
            logical_cpus: fallback_cpus(),
            total_bytes,
            simd: simd(),
            cpu_quota: None,
            memory_limit_bytes: None,
        }
    }

    fn free(total_bytes: u64) -> u64 {
        let Some(text) = run("vm_stat", &[]) else {
            return total_bytes / 2;
        };
        let page = text
            .split_once("page size of ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(16384);
        let pages = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .trim()
                        .trim_end_matches('.')
                        .parse()
                        .ok()
                })
                .unwrap_or(0u64)
        };
        let free = pages("Pages free:") + pages("Pages inactive:") + pages("Pages speculative:");
        (free + pages("Pages purgeable:")) * page
    }

    fn sysctl(name: &str) -> Option<u64> {
        run("sysctl", &["-n", name])?.parse().ok()
    }

    fn run(program: &str, args: &[&str]) -> Option<String> {
        let output = Command::new(program).args(args).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg(not(target_os = "macos"))]
mod platform {
    pub(super) fn probe() -> super::Hardware {
        super::probe_linux(std::path::Path::new("/"))
    }
}

/// Reads /proc and /sys under `root`.
#[cfg_attr(target_os = "macos", allow(dead_code))]
fn probe_linux(root: &Path) -> Hardware {
    let files = Files { root };
    let allowed = files
        .field("proc/self/status", "Cpus_allowed_list")
        .map(|list| parse_cpu_list(&list))
        .filter(|cpus| !cpus.is_empty());
    let logical_cpus = allowed
        .as_ref()
        .map_or_else(fallback_cpus, |cpus| u32::try_from(cpus.len()).unwrap_or(1));
    let physical = allowed.map_or(logical_cpus, |cpus| files.physical_cores(&cpus));
    let groups = files.cgroups();
    let quota = groups
        .iter()
        .filter_map(|group| files.quota(group))
        .reduce(f64::min);
    let cpu_quota = quota.filter(|quota| *quota < f64::from(physical));
    // A quota of 1.5 processors keeps two threads less than fully busy; one thread would waste a third.
    let cores = cpu_quota.map_or(physical, |quota| (quota.ceil() as u32).clamp(1, physical));
    let total_bytes = files.meminfo("MemTotal").unwrap_or(0);
    let available = files.meminfo("MemAvailable").unwrap_or(total_bytes / 2);
    let limits: Vec<Limit> = groups
        .iter()
        .filter_map(|group| files.memory_limit(group))
        .collect();
    let memory_limit_bytes = limits
        .iter()
        .map(|limit| limit.bytes)
        .min()
        .filter(|bytes| *bytes < total_bytes);
    let free_bytes = limits
        .iter()
        .map(|limit| limit.bytes.saturating_sub(limit.used))
        .fold(available, u64::min);
    Hardware {
        machine: Machine {
            free_bytes,
            cores,
            gpus: Vec::new(),
        },
        cpu_model: files
            .field("proc/cpuinfo", "model name")
            .unwrap_or_default(),
        logical_cpus,
        total_bytes,
        simd: simd(),
        cpu_quota,
        memory_limit_bytes,
    }
}

/// A cgroup directory, with the words of its version.
struct Group {
    dir: PathBuf,
    version: u8,
}

struct Limit {
    bytes: u64,
    /// Without what the kernel would give back (clean pages of files).
    used: u64,
}

struct Files<'a> {
    root: &'a Path,
}

impl Files<'_> {
    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// The value of the first `name: value` line.
    fn field(&self, path: &str, name: &str) -> Option<String> {
        self.read(path)?.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    }

    fn meminfo(&self, name: &str) -> Option<u64> {
        let value = self.field("proc/meminfo", name)?;
        value
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    }

    /// Two threads of one core share its arithmetic units: they count once.
    fn physical_cores(&self, cpus: &BTreeSet<u32>) -> u32 {
        let core = |cpu: &u32| {
            let dir = PathBuf::from(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
            Some((
                self.number(dir.join("physical_package_id"))?,
                self.number(dir.join("core_id"))?,
            ))
        };
        let cores: Option<BTreeSet<(u64, u64)>> = cpus.iter().map(core).collect();
        let count = cores.map_or(cpus.len(), |cores| cores.len());
        u32::try_from(count).unwrap_or(1).max(1)
    }

    /// This process's groups and all above them: any of them may limit.
    fn cgroups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        for line in self.read("proc/self/cgroup").unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let (base, version) = match controllers {
                "" => (PathBuf::from("sys/fs/cgroup"), 2),
                names if names.split(',').any(|name| name == "memory") => {
                    (PathBuf::from("sys/fs/cgroup/memory"), 1)
                }
                names if names.split(',').any(|name| name == "cpu") => {
                    (PathBuf::from("sys/fs/cgroup").join(names), 1)
                }
                _ => continue,
            };
            for above in Path::new(path.trim_start_matches('/')).ancestors() {
                groups.push(Group {
                    dir: base.join(above),
                    version,
                });
            }
        }
        groups
    }

    fn quota(&self, group: &Group) -> Option<f64> {
        let (quota, period) = if group.version == 2 {
            let text = self.read(group.dir.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
        } else {
            let number = |name: &str| {
                self.read(group.dir.join(name))
                    .and_then(|text| text.trim().parse::<f64>().ok())
            };
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    }

    fn memory_limit(&self, group: &Group) -> Option<Limit> {
        let names = if group.version == 2 {
            ("memory.max", "memory.current", "inactive_file")
        } else {
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        };
        let bytes = self.number(group.dir.join(names.0))?; // "max" is no number: no limit
        let used = self.number(group.dir.join(names.1)).unwrap_or(0);
        let stat = self.read(group.dir.join("memory.stat")).unwrap_or_default();
        let clean = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == names.2).then(|| value.parse::<u64>().ok())?
        });
        Some(Limit {
            bytes,
            used: used.saturating_sub(clean.unwrap_or(0)),
        })
    }
}

/// "0-3,8,10-11", as the kernel writes sets. Absurd ranges are cut off.
fn parse_cpu_list(text: &str) -> BTreeSet<u32> {
    const CPUS_MAX: u32 = 4096;
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(low), Ok(high)) = (low.trim().parse::<u32>(), high.trim().parse::<u32>()) {
            cpus.extend(low..=high.min(CPUS_MAX));
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Fake {
            let fake = Fake(tempfile::tempdir().unwrap());
            fake.file(
                "proc/meminfo",
                "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
            );
            fake.file("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3\n");
            for (cpu, core) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
                let dir = format!("sys/devices/system/cpu/cpu{cpu}/topology");
                fake.file(&format!("{dir}/core_id"), &format!("{core}\n"));
                fake.file(&format!("{dir}/physical_package_id"), "0\n");
            }
            fake
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn probe(&self) -> Hardware {
            probe_linux(self.0.path())
        }
    }

    #[test]
    fn hyper_threads_count_once_and_affinity_counts() {
        let fake = Fake::new();
        let found = fake.probe();
        assert_eq!((found.machine.cores, found.logical_cpus), (2, 4));
        assert_eq!(found.machine.free_bytes, 8_000_000 * 1024);
        fake.file("proc/self/status", "Cpus_allowed_list:\t1,3\n");
        assert_eq!(
            (fake.probe().machine.cores, fake.probe().logical_cpus),
            (1, 2)
        );
    }

    #[test]
    fn a_second_version_cgroup_limits_cores_and_memory() {
        let fake = Fake::new();
        fake.file("proc/self/cgroup", "0::/user/box\n");
        fake.file("sys/fs/cgroup/user/cpu.max", "50000 100000\n");
        fake.file("sys/fs/cgroup/user/box/cpu.max", "max 100000\n");
        fake.file("sys/fs/cgroup/user/box/memory.max", "2000000000\n");
        fake.file("sys/fs/cgroup/user/box/memory.current", "900000000\n");
        fake.file(
            "sys/fs/cgroup/user/box/memory.stat",
            "anon 1\ninactive_file 400000000\n",
        );
        let found = fake.probe();
        assert_eq!((found.machine.cores, found.cpu_quota), (1, Some(0.5)));
        assert_eq!(found.memory_limit_bytes, Some(2_000_000_000));
        assert_eq!(found.machine.free_bytes, 1_500_000_000);
    }

    #[test]
    fn a_first_version_cgroup_limits_too() {
        let fake = Fake::new();
        fake.file("proc/self/cgroup", "4:memory:/a\n2:cpu,cpuacct:/a\n");
        fake.file("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
        fake.file("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
        fake.file(
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "3000000000\n",
        );
        fake.file(
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes",
            "1000000000\n",
        );
        let found = fake.probe();
        assert_eq!((found.machine.cores, found.cpu_quota), (2, None));
        assert_eq!(found.machine.free_bytes, 2_000_000_000);
    }

    #[test]
    fn an_empty_proc_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe_linux(dir.path());
        assert!(found.machine.cores >= 1);
        assert_eq!(found.machine.free_bytes, 0);
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let found = probe();
        assert!(
            found.machine.cores >= 1 && found.machine.free_bytes > 0,
            "{found:?}"
        );
    }
}
