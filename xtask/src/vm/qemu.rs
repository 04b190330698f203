//! A virtual machine from its start to its end, which comes by a time limit if not by itself.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;
use crate::{command::shown, say};

const PROGRAM: &str = "qemu-system-x86_64";

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// Boots once under KVM: there are machines on which it is there and hangs, or fails at the
    /// first instruction it cannot emulate.
    pub(super) fn probe(kernel: &Kernel, work: &Path) -> Result<Self> {
        /// A boot takes a second or two.
        const LIMIT: Duration = Duration::from_secs(10);
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            say::step("vm", "no KVM here: emulating the processors");
            return Ok(Self::Tcg);
        }
        let machine = Machine {
            kernel: kernel.image()?,
            initramfs: None,
            directory: work.to_path_buf(),
            accelerator: Self::Kvm,
        };
        machine.run(LIMIT)?;
        // With nothing to start, the kernel gets as far as to panic for want of it.
        if lossy(&machine.console())?.contains("Unable to mount root fs") {
            say::step("vm", "running under KVM");
            return Ok(Self::Kvm);
        }
        say::step("vm", "KVM boots no kernel here: emulating the processors");
        Ok(Self::Tcg)
    }

    /// By how much longer anything takes than on the processor itself, to be generous.
    pub(super) fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 4,
        }
    }

    fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // One thread for both processors of a machine: with two, QEMU before 8.1 may go on
            // executing instructions that the other processor has replaced, of which kernels die
            // when tracepoints are switched on and off, and 7.2 gets `cmpxchg16b` wrong. Machines
            // run beside each other instead.
            // Wide vectors take longer to emulate than they save.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max,avx=off,avx2=off"],
        }
    }
}

/// What to boot, and where to leave what it says.
pub(super) struct Machine {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: Option<PathBuf>,
    pub(super) directory: PathBuf,
    pub(super) accelerator: Accelerator,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It turned itself off, or the kernel did.
    Off,
    /// QEMU failed.
    Failed,
    /// It was still running and had long been silent, and was killed.
    Killed,
}

impl Machine {
    /// The kernel's own messages.
    pub(super) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What the tests print.
    pub(super) fn results(&self) -> PathBuf {
        self.directory.join("results.log")
    }

    fn qemu(&self) -> Command {
        // By way of a program that has it killed should xtask be: a machine nobody waits for would
        // keep a processor busy for ever.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "--", PROGRAM]);
        qemu.args(self.accelerator.options());
        // Two processors: what one allocates another frees, and interrupts arrive beside programs.
        qemu.args(["-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot", "-display", "none"]);
        qemu.arg("-kernel").arg(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            qemu.arg("-initrd").arg(initramfs);
        }
        // What panics is to end here and now. Mitigations guard against neighbours that this machine
        // has not.
        let mut words =
            "console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off random.trust_cpu=on"
                .to_owned();
        if self.accelerator == Accelerator::Tcg {
            // The frequency of the emulated TSC is measured at boot, and on a busy machine found so
            // wrong that time runs ten times too fast. This clock's is known.
            words.push_str(" clocksource=hpet");
        }
        qemu.arg("-append").arg(words);
        qemu
    }

    /// Runs it to its end, which comes when no results have come for this long.
    pub(super) fn run(&self, silence: Duration) -> Result<End> {
        let mut qemu = self.qemu();
        fs::create_dir_all(&self.directory)
            .with_context(|| self.directory.display().to_string())?;
        for log in [self.console(), self.results()] {
            // QEMU reads options in the name: a comma would begin another.
            let name = log.display().to_string().replace(',', ",,");
            qemu.arg("-serial").arg(format!("file:{name}"));
        }
        let log = self.directory.join("qemu.log");
        let said = File::create(&log).with_context(|| log.display().to_string())?;
        qemu.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = qemu.spawn().with_context(|| format!("cannot run {}", shown(&qemu)))?;
        let mut child = Killed(child);
        let (mut deadline, mut length) = (Instant::now() + silence, 0);
        loop {
            let now = fs::metadata(self.results()).map_or(0, |results| results.len());
            if now != length {
                (deadline, length) = (Instant::now() + silence, now);
            }
            match child.0.try_wait().context("cannot wait for QEMU")? {
                Some(status) if status.success() => return Ok(End::Off),
                Some(_) => return Ok(End::Failed),
                None if Instant::now() > deadline => return Ok(End::Killed),
                None => sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Runs it with its console on this terminal.
    pub(super) fn attend(&self) -> Result<()> {
        let mut qemu = self.qemu();
        // Ctrl-C goes to the shell inside; Ctrl-A X ends the machine.
        qemu.args(["-serial", "mon:stdio", "-serial", "null"]);
        crate::command::run_in_terminal(&mut qemu)
    }
}

/// QEMU does not outlive its guard.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The text of a log, whatever bytes are in it.
pub(super) fn lossy(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| log.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
