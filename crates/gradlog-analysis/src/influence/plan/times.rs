//! Which probe time stands for a step.

use crate::influence::question::ProbeTime;

/// The position of the time that stands for `step`; `times` ascend.
pub(in crate::influence) fn position(times: &[u64], step: u64, rule: ProbeTime) -> Option<usize> {
    let later = times.partition_point(|&time| time <= step);
    let earlier = later.checked_sub(1);
    if rule == ProbeTime::Earlier || later == times.len() {
        return earlier;
    }
    match earlier {
        Some(earlier) if step - times[earlier] <= times[later] - step => Some(earlier),
        _ => Some(later),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_time_of_a_step() {
        let times = [10, 20, 30];
        for (step, earlier, nearest) in [
            (0, None, Some(0)),
            (9, None, Some(0)),
            (10, Some(0), Some(0)),
            (15, Some(0), Some(0)),
            (16, Some(0), Some(1)),
            (20, Some(1), Some(1)),
            (u64::MAX, Some(2), Some(2)),
        ] {
            assert_eq!(position(&times, step, ProbeTime::Earlier), earlier, "{step}");
            assert_eq!(position(&times, step, ProbeTime::Nearest), nearest, "{step}");
        }
        assert_eq!(position(&[], 5, ProbeTime::Nearest), None);
    }
}
