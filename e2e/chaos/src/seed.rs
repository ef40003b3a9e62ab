//! Random numbers that one seed decides. Each part of a run draws from a stream of its own, so that what one part draws
//! depends neither on the others nor on how they are scheduled.

use std::time::Duration;

use fastrand::Rng;

/// The stream of a part, by its name and number.
pub fn stream(seed: u64, part: &str, number: u64) -> Rng {
    // FNV-1a: a name must give the same stream with every compiler, which `std`'s hashers do not promise.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed.to_le_bytes().into_iter().chain(part.bytes()).chain(number.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    Rng::with_seed(hash)
}

/// Whether something happens that happens once in `times`.
pub fn once_in(rng: &mut Rng, times: u64) -> bool {
    rng.u64(0..times) == 0
}

/// A time from the exponential distribution, cut at ten times the mean.
pub fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    let factor = -(1.0 - rng.f64()).ln();
    mean.mul_f64(factor.min(10.0))
}

/// A time that is as likely as any other below `limit`.
pub fn uniform(rng: &mut Rng, limit: Duration) -> Duration {
    limit.mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_seed_s_and_no_other_s() {
        let draw = |seed, part, number| -> Vec<u64> {
            let mut rng = stream(seed, part, number);
            (0..4).map(|_| rng.u64(..)).collect()
        };
        assert_eq!(draw(1, "client", 0), draw(1, "client", 0));
        assert_ne!(draw(1, "client", 0), draw(1, "client", 1));
        assert_ne!(draw(1, "client", 0), draw(2, "client", 0));
        assert_ne!(draw(1, "client", 0), draw(1, "killer", 0));
    }

    #[test]
    fn times_have_a_bound() {
        let mut rng = stream(7, "times", 0);
        let mean = Duration::from_millis(10);
        let sum: Duration = (0..1000).map(|_| exponential(&mut rng, mean)).sum();
        assert!(sum > 8 * mean * 100 && sum < 12 * mean * 100, "{sum:?}");
        assert!((0..1000).all(|_| uniform(&mut rng, mean) < mean));
    }
}
