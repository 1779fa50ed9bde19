//! The `ottla` binary: the command line, nothing else. See [`ottla::cli`].

#[cfg(feature = "plants")]
compile_error!("the feature `plants` compiles historic bugs in, for the simulator only: build the binary without it");

fn main() -> std::process::ExitCode {
    ottla::cli::main()
}
