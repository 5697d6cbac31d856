//! Processor, memory, graphics.

use super::Check;
use crate::config::Settings;
use crate::expert::hardware::{Hardware, compiled_backends};
use quorate_core::plan::{self, Size};
use std::path::Path;

pub(super) fn checks(hardware: &Hardware, settings: &Settings) -> Vec<Check> {
    vec![
        cpu(hardware, settings),
        memory(hardware, settings),
        gpu(hardware),
    ]
}

fn cpu(hardware: &Hardware, settings: &Settings) -> Check {
    let cores = hardware.machine.cores;
    let mut says = format!("{cores} core(s)");
    if hardware.logical_cpus != cores {
        says += &format!(", {} threads", hardware.logical_cpus);
    }
    if let Some(quota) = hardware.cpu_quota {
        says += &format!(", limited to {quota:.1} by the container");
    }
    if !hardware.cpu_model.is_empty() {
        says += &format!(", {}", hardware.cpu_model);
    }
    let simd = hardware.simd.join(" ");
    says += &format!(
        " ({})",
        if simd.is_empty() {
            "no vector instructions"
        } else {
            &simd
        }
    );
    if cfg!(target_arch = "x86_64") && !hardware.simd.contains(&"avx2") {
        return Check::fail(
            "cpu",
            format!("{says}: this build needs AVX2"),
            "use a machine from 2014 or later, or build for this one",
        );
    }
    match settings.threads {
        Some(threads) if threads > hardware.logical_cpus => Check::warn(
            "cpu",
            format!("{says}; {threads} threads are set, more than can run"),
            format!("quorate up --threads {cores}"),
        ),
        _ => Check::ok("cpu", says),
    }
}

fn memory(hardware: &Hardware, settings: &Settings) -> Check {
    let free = hardware.machine.free_bytes;
    let budget = plan::budget_bytes(&hardware.machine, settings.max_memory_bytes);
    let mut says = format!("{} free of {}", Size(free), Size(hardware.total_bytes));
    if let Some(limit) = hardware.memory_limit_bytes {
        says += &format!(", container limit {}", Size(limit));
    }
    says += &format!("; models may fill {}", Size(budget));
    if budget == 0 {
        return Check::fail(
            "memory",
            says,
            "close other programs; 512 MB always stay free",
        );
    }
    Check::ok("memory", says)
}

fn gpu(hardware: &Hardware) -> Check {
    let compiled = compiled_backends();
    let found = &hardware.machine.gpus;
    let names: Vec<String> = found
        .iter()
        .map(|gpu| format!("{} ({} free)", gpu.name, Size(gpu.free_bytes)))
        .collect();
    match (compiled.is_empty(), found.is_empty()) {
        (false, false) => Check::ok(
            "gpu",
            format!("{} through {}", names.join(", "), compiled.join(", ")),
        ),
        (false, true) => Check::warn(
            "gpu",
            format!("built for {}, but no device answers", compiled.join(", ")),
            "check the driver (nvidia-smi, vulkaninfo), or build for the CPU: sh deploy/up --cpu",
        ),
        (true, _) if Path::new("/dev/nvidia0").exists() => Check::warn(
            "gpu",
            "an NVIDIA card is here, but this build is for the CPU",
            "install the CUDA toolkit and build again: QUORATE_GPU=cuda sh deploy/up",
        ),
        (true, _) if Path::new("/dev/dri/renderD128").exists() => Check::warn(
            "gpu",
            "a graphics card is here, but this build is for the CPU",
            "install the Vulkan SDK and build again: QUORATE_GPU=vulkan sh deploy/up",
        ),
        (true, _) => Check::ok("gpu", "none; the CPU computes"),
    }
}
