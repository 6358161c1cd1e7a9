//! When calls are meant to be sent: a pure function of the process, the rate and the seed.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

const SECOND_NS: f64 = 1e9;

/// A burst process is a Poisson process at a base rate, but for `BURST_S` of every second, when its rate is
/// `BURST_FACTOR` times the base. The base is chosen so that the mean is the rate asked for.
const BURST_FACTOR: f64 = 10.0;
const BURST_S: f64 = 0.1;
/// Where in its second a burst begins: the first one meets a server that runs already.
const BURST_FROM_S: f64 = 0.5;

/// How gaps between arrivals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Constant,
    Poisson,
    Burst,
}

impl Process {
    /// The process of this name; None for another name.
    pub fn named(name: &str) -> Option<Process> {
        match name {
            "constant" => Some(Process::Constant),
            "poisson" => Some(Process::Poisson),
            "burst" => Some(Process::Burst),
            _ => None,
        }
    }
}

/// An endless series of arrivals, nanoseconds from the start, not decreasing.
#[derive(Clone, Debug)]
pub struct Arrivals {
    process: Process,
    rate: f64,
    random: SplitMix,
    count: u64,
    /// The sum of the exponential gaps so far, in units of the mean gap.
    unit_time: f64,
}

impl Arrivals {
    /// `rate`: arrivals a second, on average; more than 0.
    pub fn new(process: Process, rate: f64, seed: u64) -> Arrivals {
        Arrivals { process, rate, random: SplitMix(seed), count: 0, unit_time: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        if self.process == Process::Constant {
            let at_ns = self.count as f64 * SECOND_NS / self.rate;
            self.count += 1;
            return Some(at_ns as i64);
        }
        self.unit_time += self.random.exponential();
        let at_s = match self.process {
            Process::Burst => burst_time(self.unit_time / self.rate),
            _ => self.unit_time / self.rate,
        };
        Some((at_s * SECOND_NS) as i64)
    }
}

/// The instant at which a burst process has seen as many arrivals as one of constant rate has at `even_s` (both in
/// seconds): a Poisson process of varying rate is one of rate 1, its time stretched.
fn burst_time(even_s: f64) -> f64 {
    let base = 1.0 / (1.0 + (BURST_FACTOR - 1.0) * BURST_S);
    let (second, share) = (even_s.floor(), even_s.fract());
    let before = BURST_FROM_S * base;
    let within = before + BURST_S * BURST_FACTOR * base;
    second
        + if share < before {
            share / base
        } else if share < within {
            BURST_FROM_S + (share - before) / (BURST_FACTOR * base)
        } else {
            BURST_FROM_S + BURST_S + (share - within) / base
        }
}

/// SplitMix64: small, seeded, and the same on every machine.
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Exponentially distributed with mean 1.
    fn exponential(&mut self) -> f64 {
        let uniform = (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64); // [0, 1)
        -(-uniform).ln_1p()
    }
}

/// The intended send times of an open-loop run, int64 nanoseconds from its start, as bytes.
#[pyfunction]
#[pyo3(signature = (process, rate, duration_ns, seed))]
pub fn arrivals<'py>(
    py: Python<'py>,
    process: &str,
    rate: f64,
    duration_ns: i64,
    seed: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let times = checked(process, rate, seed)?.take_while(|&at_ns| at_ns < duration_ns);
    Ok(PyBytes::new(py, &times.flat_map(i64::to_ne_bytes).collect::<Vec<u8>>()))
}

/// The arrivals, or ValueError.
pub fn checked(process: &str, rate: f64, seed: u64) -> PyResult<Arrivals> {
    let process = Process::named(process)
        .ok_or_else(|| PyValueError::new_err(format!("{process:?} is not constant, poisson or burst")))?;
    if !(rate.is_finite() && rate > 0.0) {
        return Err(PyValueError::new_err(format!("the rate is {rate}, it has to be more than 0")));
    }
    Ok(Arrivals::new(process, rate, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift() {
        let mut third = Arrivals::new(Process::Constant, 3.0, 1);
        assert_eq!(third.clone().take(4).collect::<Vec<_>>(), [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(third.nth(3_000_000), Some(1_000_000_000_000_000));
    }

    #[test]
    fn a_burst_is_ten_times_as_dense_as_what_surrounds_it() {
        let seconds = 200.0;
        let times = Arrivals::new(Process::Burst, 1_000.0, 7).map(|ns| ns as f64 / SECOND_NS);
        let phases: Vec<f64> = times.take_while(|&s| s < seconds).map(f64::fract).collect();
        let burst = phases.iter().filter(|&&s| (0.5..0.6).contains(&s)).count() as f64 / (0.1 * seconds);
        let calm = phases.iter().filter(|&&s| !(0.5..0.6).contains(&s)).count() as f64 / (0.9 * seconds);
        assert!((burst / calm - 10.0).abs() < 0.2, "{burst} {calm}");
        assert!((phases.len() as f64 / seconds - 1_000.0).abs() < 10.0);
    }
}
