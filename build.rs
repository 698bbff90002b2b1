//! Builds the kernels: for the emulator with the host's C++ compiler, for GPUs with nvcc. Knows no kernel by name.

#[path = "build/emu.rs"]
mod emu;
#[path = "build/nvcc.rs"]
mod nvcc;

fn main() {
    emu::build();
    nvcc::build();
}
