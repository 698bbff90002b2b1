//! NVIDIA's own `libnccl`, where `tools/install-nccl` has put it: it loads, says its version, gives every rank the same id, and
//! on a machine without a driver says in one line why it does not start.
//!
//! Skipped, loudly, where it is not installed; `HAGGLE_REQUIRE_NCCL=1` makes a skip a failure. A process of its own: where its ids
//! meet is told by a variable of the environment, which ranks that are started beside it would take over.

#![allow(clippy::unwrap_used)]

use haggle::device::nccl::{Library, starts};
use std::path::PathBuf;
use std::sync::Arc;

fn installed(test: &str) -> Option<String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let file = target.join("nccl/nvidia/nccl/lib/libnccl.so.2");
    if file.exists() {
        return Some(file.canonicalize().unwrap().display().to_string());
    }
    assert!(std::env::var_os("HAGGLE_REQUIRE_NCCL").is_none(), "{} is not there: tools/install-nccl", file.display());
    eprintln!("SKIPPED {test}: {} IS NOT THERE: tools/install-nccl", file.display());
    None
}

// One test: an id's address is a variable of the process.
#[test]
fn nvidias_library_gives_each_rank_one_id_and_says_in_a_line_why_it_does_not_start() {
    let Some(file) = installed("nvidias_library_gives_each_rank_one_id_and_says_in_a_line_why_it_does_not_start")
    else {
        return;
    };
    let library = Arc::new(Library::open(&[file]).unwrap());
    eprintln!("{library:?}");
    assert!(library.version.starts_with("2."), "{}", library.version);
    assert!(!library.takes_host_memory, "it moves memory of GPUs alone");
    // Without a driver nothing starts; with one it does, alone.
    match starts(&library) {
        Ok(()) => eprintln!("it starts here"),
        Err(e) => {
            let said = e.to_string();
            eprintln!("{said}");
            assert!(said.starts_with("ranks: ncclCommInitRankConfig: ") && !said.contains('\n'), "{said}");
            assert!(said.contains(&format!("NCCL {}", library.version)) && said.contains("NCCL_DEBUG=INFO"), "{said}");
        }
    }
    let at = |port: u16| library.id_at(&format!("127.0.0.1:{port}")).unwrap();
    assert_eq!(at(29_417), at(29_417), "every rank gets the same by itself");
    assert_ne!(at(29_417), at(29_418));
}
