//! Which machines there are: the rows of the table.

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::kernel::{self, Series};

/// The series whose kernel is also run with something taken away.
const CRIPPLED: &str = "6.18";

/// What a machine has besides a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Variant {
    /// The memory controller on cgroup v2, and all that the kernel has.
    CgroupV2,
    /// The memory controller on cgroup v1.
    CgroupV1,
    /// No `/sys/kernel/btf`, as on kernels built without.
    NoBtf,
    /// Function tracing switched off, so that trampolines load and stay silent.
    NoTrampolines,
}

impl Variant {
    const ALL: [Self; 4] = [Self::CgroupV2, Self::CgroupV1, Self::NoBtf, Self::NoTrampolines];

    /// As the command line, `init.sh` and the tests (`KLEAK_VM_VARIANT`) call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup-v2",
            Self::CgroupV1 => "cgroup-v1",
            Self::NoBtf => "no-btf",
            Self::NoTrampolines => "no-trampolines",
        }
    }

    fn applies_to(self, series: &Series) -> bool {
        match self {
            Self::CgroupV2 => true,
            Self::CgroupV1 => series.memory_v1,
            Self::NoBtf | Self::NoTrampolines => series.name == CRIPPLED,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) series: &'static Series,
    pub(super) variant: Variant,
}

impl Planned {
    pub(super) fn label(self) -> String {
        let Self { series, variant } = self;
        match variant {
            Variant::CgroupV2 => series.name.to_owned(),
            _ => format!("{} {}", series.name, variant.name()),
        }
    }
}

/// The machines of these kernels and variants; none means all.
pub(super) fn of(kernels: &[String], chosen: &[Variant]) -> Result<Vec<Planned>> {
    let wanted =
        |series: &&Series| kernels.is_empty() || kernels.iter().any(|name| name == series.name);
    let variants = |series: &'static Series| {
        let asked = |variant: &Variant| chosen.is_empty() || chosen.contains(variant);
        let variants = Variant::ALL.into_iter().filter(asked);
        variants
            .filter(|variant| variant.applies_to(series))
            .map(move |variant| Planned { series, variant })
    };
    let planned = kernel::ALL.iter().filter(wanted).flat_map(variants).collect::<Vec<_>>();
    ensure!(
        !planned.is_empty(),
        "no such machine: {} is for kernels up to 6.1, {} and {} for {CRIPPLED}",
        Variant::CgroupV1.name(),
        Variant::NoBtf.name(),
        Variant::NoTrampolines.name(),
    );
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_every_kernel_and_what_it_can_lack_is_planned() {
        let labels = |kernels: &[String], variants: &[Variant]| -> Result<Vec<String>> {
            Ok(of(kernels, variants)?.into_iter().map(Planned::label).collect())
        };
        assert_eq!(
            labels(&[], &[]).unwrap(),
            [
                "5.10",
                "5.10 cgroup-v1",
                "6.1",
                "6.1 cgroup-v1",
                "6.12",
                "6.18",
                "6.18 no-btf",
                "6.18 no-trampolines",
                "7.2"
            ]
        );
        assert_eq!(labels(&["6.1".to_owned()], &[Variant::CgroupV1]).unwrap(), ["6.1 cgroup-v1"]);
        assert!(labels(&["7.2".to_owned()], &[Variant::CgroupV1]).is_err());
    }
}
