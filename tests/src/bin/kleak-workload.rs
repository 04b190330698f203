//! A process that makes a known number of kernel objects, when it is told to. See `--help`.

fn main() -> std::process::ExitCode {
    kleak_tests::workload::main()
}
