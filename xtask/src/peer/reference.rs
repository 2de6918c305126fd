//! Figures that an earlier run gave, to compare with: QEMU 7.2.22 and the pinned kernel, gcc 12.2, glibc 2.36.
//!
//! Boots of the same build print the same, to the byte. Between builds, loops differ by a few instructions; the samples of a cold
//! start have two humps, and any change to the benchmarks shifts where the median falls between them, by up to 2 %.

use std::collections::BTreeMap;

use super::{Figure, Peer};

/// Which of a figure's numbers is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Number {
    Median,
    /// For sweeps over pages, where KVM's prefetch makes the median the cost of no exit at all.
    Mean,
}
use Number::{Mean, Median};

/// How far figures may be from the reference and still agree with it, in percent.
const AGREES_PERCENT: f64 = 2.0;

/// The floor's figures.
const FLOOR: [(&str, u64); 7] = [
    ("vmrun_vmmcall_no_handler", 2),
    ("vmrun_vmmcall_advance_rip", 4),
    ("vmrun_out_advance_rip", 5),
    ("vmrun_cpuid_advance_rip", 4),
    ("full_switch_vmmcall", 46),
    ("vmrun_inject_irq_iret_vmmcall", 7),
    ("shadow_fault_fill_one_pte", 10),
];

/// KVM's figures with npt=0 and npt=1.
const KVM: [(&str, Number, u64, u64); 32] = [
    ("a_out", Median, 3001, 3003),
    ("b_cpuid", Median, 2640, 2672),
    ("c_vmmcall", Median, 2873, 2905),
    ("d_rdmsr_efer", Median, 2700, 2732),
    ("d_wrmsr_efer", Median, 2942, 2966),
    ("e_cold_64K_2M_total", Median, 945_567, 849_897),
    ("e_cold_64K_2M_other_vm_alive_total", Median, 578_208, 470_956),
    ("e_cold_64K_16M_total", Median, 950_344, 850_094),
    ("e_cold_1M_2M_total", Median, 1_779_751, 1_726_146),
    ("e_cold_1M_16M_total", Median, 1_790_158, 1_729_576),
    ("e_cold_1M_16M_other_vm_alive_total", Median, 1_431_166, 1_354_715),
    ("f_touch_pass1", Mean, 2305, 3368),
    ("f_touch_every_8th", Mean, 18_425, 3443),
    ("f_touch_unpopulated", Mean, 8550, 6366),
    ("f_mapnew", Median, 4594, 2778),
    ("f_unmap_cold", Median, 3326, 4),
    ("f_remap_invlpg_touch", Median, 5677, 4),
    ("f_invlpg", Median, 3323, 1),
    ("f_cr3_switch_touch", Median, 3367, 3),
    ("f_guest_pf_skip", Median, 1683, 3),
    ("f_guest_demand_paging", Median, 6538, 2780),
    ("g_mmio_write", Median, 5072, 5058),
    ("g_mmio_read", Median, 5435, 5421),
    ("h_out_interrupt_iret", Median, 5262, 5266),
    ("h_hlt_interrupt_iret", Median, 6263, 6297),
    ("i_reset_knownpages_syncregs_dirty0", Median, 4305, 4290),
    ("i_reset_knownpages_syncregs_dirty16", Median, 12_559, 12_544),
    ("i_reset_knownpages_syncregs_dirty64", Median, 37_327, 37_312),
    ("i_reset_dirtylog_syncregs_dirty16", Median, 85_128, 52_060),
    ("i_reset_dirtylog_syncregs_dirty64", Median, 322_008, 158_236),
    ("i_reset_knownpages_all_state_dirty0", Median, 14_317, 14_302),
    ("i_reset_copy_all_2MiB_regs+sregs", Median, 269_160, 269_145),
];

/// A figure beside its reference.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Deviation {
    /// What it is a figure of: floor, npt=0 or npt=1.
    pub column: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it is, if it was measured.
    pub measured: Option<u64>,
    /// What it was.
    pub reference: u64,
}

impl Deviation {
    /// Returns how far the figure is from its reference, in percent of the reference.
    pub fn percent(&self) -> f64 {
        self.measured.map_or(f64::INFINITY, |measured| measured.abs_diff(self.reference) as f64 * 100.0 / self.reference as f64)
    }
}

/// Names of the figures that have a reference.
pub fn names() -> impl Iterator<Item = &'static str> {
    FLOOR.iter().map(|(name, _)| *name).chain(KVM.iter().map(|(name, ..)| *name))
}

/// Compares a run with the reference, the farthest first.
pub fn deviations(peer: &Peer) -> Vec<Deviation> {
    let compare = |column, figures: &BTreeMap<String, Figure>, name, number, reference| {
        let measured = figures.get(name).map(|figure| match number {
            Median => figure.median,
            Mean => figure.mean,
        });
        Deviation { column, name, measured, reference }
    };
    let mut all: Vec<_> = FLOOR.map(|(name, was)| compare("floor", &peer.floor, name, Median, was)).into();
    for (name, number, npt0, npt1) in KVM {
        all.push(compare("npt=0", &peer.npt0, name, number, npt0));
        all.push(compare("npt=1", &peer.npt1, name, number, npt1));
    }
    all.sort_by(|a, b| b.percent().total_cmp(&a.percent()));
    all
}

/// Says in a line how well a run agrees with the reference.
pub fn agreement(deviations: &[Deviation]) -> String {
    let Some(far) = deviations.first() else { return "there is no reference to compare with".to_owned() };
    let Deviation { column, name, reference, .. } = far;
    match far.measured {
        None => format!("the peer did not measure {name} ({column}), which the committed reference has"),
        Some(measured) => {
            let verdict = if far.percent() <= AGREES_PERCENT {
                "agrees with the committed reference within"
            } else {
                "differs from the committed reference by up to"
            };
            let (percent, count) = (far.percent(), deviations.len());
            format!("{verdict} {percent:.2} % (the farthest of {count}: {name}, {column}: {measured}, was {reference})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that gives the reference itself.
    fn same() -> Peer {
        let figure = |value, number| {
            let (median, mean) = if number == Mean { (2, value) } else { (value, value + 1000) };
            Figure { min: 1, median, mean, exits: None }
        };
        let column = |pick: fn(u64, u64) -> u64| {
            KVM.iter().map(|&(name, number, npt0, npt1)| (name.to_owned(), figure(pick(npt0, npt1), number))).collect()
        };
        Peer {
            kernel: String::new(),
            notice: None,
            floor: FLOOR.iter().map(|&(name, value)| (name.to_owned(), figure(value, Median))).collect(),
            npt0: column(|npt0, _| npt0),
            npt1: column(|_, npt1| npt1),
        }
    }

    #[test]
    fn the_reference_agrees_with_itself() {
        let deviations = same().deviations();
        assert_eq!(deviations.len(), FLOOR.len() + 2 * KVM.len());
        assert!(deviations.iter().all(|deviation| deviation.percent() == 0.0));
        assert!(same().agreement().starts_with("agrees with the committed reference within 0.00 % (the farthest of 71:"));
    }

    #[test]
    fn the_farthest_figure_is_told() {
        let mut peer = same();
        peer.npt1.get_mut("b_cpuid").unwrap().median = 2672 - 334;
        peer.npt0.get_mut("f_touch_pass1").unwrap().mean = 2300;
        let agreement = peer.agreement();
        assert!(agreement.starts_with("differs from the committed reference by up to 12.50 %"), "{agreement}");
        assert!(agreement.contains("b_cpuid, npt=1: 2338, was 2672"), "{agreement}");
    }

    #[test]
    fn a_missing_figure_is_farthest() {
        let mut peer = same();
        peer.npt0.get_mut("a_out").unwrap().median = 0;
        peer.floor.remove("full_switch_vmmcall");
        assert!(peer.agreement().contains("did not measure full_switch_vmmcall (floor)"));
    }
}
