//! What this machine, or the container that this process runs in, has.
//!
//! Asked once, at the start of a process. GPUs are those that this process itself may
//! see, by UUID where the driver tells: a number means another device in a process
//! that sees fewer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::amount::Amount;

/// How long the driver's own program may take.
const SMI_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked at.
const SMI_STEP: Duration = Duration::from_millis(10);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub cpus: Amount,
    pub gpu_ids: Vec<String>,
    pub memory_bytes: u64,
}

/// What there is; looked for once.
pub fn detect() -> &'static Detected {
    static FOUND: OnceLock<Detected> = OnceLock::new();
    FOUND.get_or_init(|| Detected {
        cpus: Amount::whole(std::thread::available_parallelism().map_or(1, usize::from)),
        gpu_ids: gpu_ids(),
        memory_bytes: memory_bytes(Path::new("/")),
    })
}

fn gpu_ids() -> Vec<String> {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return visible_ids(&visible);
    }
    match ids_of_driver(Path::new("/proc/driver/nvidia/gpus")) {
        ids if ids.is_empty() => ids_of_smi().unwrap_or_default(),
        ids => ids,
    }
}

/// What the environment lets CUDA see; as CUDA does, up to the first that is none.
fn visible_ids(text: &str) -> Vec<String> {
    let ids = text.split(',').map(str::trim);
    let is_id = |id: &&str| !id.is_empty() && !id.starts_with('-');
    ids.take_while(is_id).map(str::to_owned).collect()
}

/// UUIDs by the driver's files, a folder a device, in the order of their bus.
fn ids_of_driver(gpus: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(gpus) else {
        return vec![];
    };
    let mut devices: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    devices.sort();
    let uuid = |device: std::path::PathBuf| {
        let text = std::fs::read_to_string(device.join("information")).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, uuid) = lines.find(|(key, _)| key.trim() == "GPU UUID")?;
        // A driver that is not ready says question marks.
        let uuid = uuid.trim();
        (!uuid.is_empty() && !uuid.contains('?')).then(|| uuid.to_owned())
    };
    devices.into_iter().filter_map(uuid).collect()
}

/// UUIDs by the driver's program, where it is and answers.
fn ids_of_smi() -> Option<Vec<String>> {
    let mut smi = Command::new("nvidia-smi")
        .args(["--query-gpu=uuid", "--format=csv,noheader"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + SMI_LIMIT;
    while smi.try_wait().ok()?.is_none() {
        if Instant::now() > until {
            tracing::warn!("nvidia-smi does not answer: GPUs are not counted. Name them by --gpus");
            let _ = smi.kill();
            let _ = smi.wait();
            return None;
        }
        std::thread::sleep(SMI_STEP);
    }
    let output = smi.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let lines = text.lines().map(str::trim);
    let uuids = lines.filter(|line| line.starts_with("GPU-") || line.starts_with("MIG-"));
    Some(uuids.map(str::to_owned).collect())
}

/// The bound of the container below `root`, else the machine's memory.
fn memory_bytes(root: &Path) -> u64 {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let machine = read("proc/meminfo");
    let mut machine = machine
        .lines()
        .filter_map(|line| line.strip_prefix("MemTotal:"));
    let machine = machine
        .next()
        .and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10);
    // Version 2 says `max` where there is none, version 1 a huge number.
    let bounds = [
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let bounds = bounds
        .iter()
        .filter_map(|path| read(path).trim().parse::<u64>().ok());
    match (machine, bounds.min()) {
        (0, bound) => bound.unwrap_or_default(),
        (machine, bound) => machine.min(bound.unwrap_or(machine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn gpus_of_proc_and_of_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let gpus = dir.path().join("gpus");
        assert!(ids_of_driver(&gpus).is_empty());
        let information = |uuid: &str| {
            format!(
                "Model: \t\t NVIDIA H100\nIRQ:   \t\t 42\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n"
            )
        };
        write(
            &gpus.join("0000:81:00.0/information"),
            &information("GPU-b"),
        );
        write(
            &gpus.join("0000:01:00.0/information"),
            &information("GPU-a"),
        );
        write(
            &gpus.join("0000:91:00.0/information"),
            &information("GPU-????????"),
        );
        assert_eq!(ids_of_driver(&gpus), ["GPU-a", "GPU-b"]);
        for (text, expected) in [
            ("0,1", vec!["0", "1"]),
            ("GPU-a", vec!["GPU-a"]),
            ("", vec![]),
            ("-1", vec![]),
            ("2,-1,3", vec!["2"]),
        ] {
            assert_eq!(visible_ids(text), expected, "{text}");
        }
    }

    #[test]
    fn a_container_has_what_it_is_bound_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(memory_bytes(root), 0);
        write(
            &root.join("proc/meminfo"),
            "MemTotal:       8388608 kB\nMemFree: 1 kB\n",
        );
        assert_eq!(memory_bytes(root), 8 << 30);
        write(&root.join("sys/fs/cgroup/memory.max"), "max\n");
        assert_eq!(memory_bytes(root), 8 << 30);
        write(&root.join("sys/fs/cgroup/memory.max"), "2147483648\n");
        assert_eq!(memory_bytes(root), 2 << 30);
    }

    #[test]
    fn this_machine_has_something() {
        let found = detect();
        assert!(found.cpus >= Amount::ONE);
        assert!(!cfg!(target_os = "linux") || found.memory_bytes > 1 << 20);
    }
}
