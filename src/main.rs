//! The `haggle` binary: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    haggle::cli::main()
}
