//! Random draws for synthetic workloads.

use std::f64::consts::TAU;

use fastrand::Rng;

/// A source of draws; the same seed gives the same ones.
pub(super) struct Chance(Rng);

impl Chance {
    /// Draws that only `seed` decides.
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// An independent source: draws from it do not change this one's next draws.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// `true` with this probability.
    pub(super) fn happens(&mut self, share: f64) -> bool {
        self.0.f64() < share
    }

    /// Uniform, from 0 to less than `end`.
    pub(super) fn uniform(&mut self, end: f64) -> f64 {
        end * self.0.f64()
    }

    /// Normal, by Box and Muller: the length and the angle of a point that is
    /// normal in both directions.
    pub(super) fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let length = self.exponential(2.0).sqrt();
        mean + deviation * length * (TAU * self.0.f64()).cos()
    }

    /// Lognormal: `e` to the power of a normal draw.
    pub(super) fn lognormal(&mut self, mean: f64, deviation: f64) -> f64 {
        self.normal(mean, deviation).exp()
    }

    /// Exponential, by inversion.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.open().ln()
    }

    /// Pareto of at least 1, by inversion: above `x` with probability
    /// `x^-shape`.
    pub(super) fn pareto(&mut self, shape: f64) -> f64 {
        self.open().powf(-1.0 / shape)
    }

    /// Poisson, by Knuth: the number of uniform draws whose product stays at least `e^-mean`.
    /// The draws grow with the mean, so it must be small.
    pub(super) fn poisson(&mut self, mean: f64) -> u32 {
        let least = (-mean).exp();
        let (mut product, mut count) = (self.0.f64(), 0);
        while product >= least {
            product *= self.0.f64();
            count += 1;
        }
        count
    }

    /// Uniform, above 0 and up to 1: it has a logarithm.
    fn open(&mut self) -> f64 {
        1.0 - self.0.f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    /// Mean and standard deviation of many draws.
    fn moments(mut draw: impl FnMut(&mut Chance) -> f64) -> (f64, f64) {
        let mut chance = Chance::new(1);
        let draws: Vec<f64> = (0..DRAWS).map(|_| draw(&mut chance)).collect();
        assert!(draws.iter().all(|draw| draw.is_finite()));
        let mean = draws.iter().sum::<f64>() / DRAWS as f64;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / DRAWS as f64;
        (mean, variance.sqrt())
    }

    #[track_caller]
    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= 0.02 * wanted.abs().max(0.5), "{found} instead of {wanted}");
    }

    #[test]
    fn draws_have_the_mean_and_the_deviation_of_their_distribution() {
        let (mean, deviation) = moments(|chance| chance.normal(3.0, 2.0));
        near(mean, 3.0);
        near(deviation, 2.0);
        let (mean, deviation) = moments(|chance| chance.exponential(4.0));
        near(mean, 4.0);
        near(deviation, 4.0);
        let (mean, _) = moments(|chance| chance.lognormal(0.5, 0.8));
        near(mean, (0.5f64 + 0.32).exp());
        let (mean, deviation) = moments(|chance| chance.pareto(6.0));
        near(mean, 1.2);
        near(deviation, (6.0f64 / (25.0 * 4.0)).sqrt());
        for wanted in [0.15, 1.0, 8.0] {
            let (mean, deviation) = moments(|chance| f64::from(chance.poisson(wanted)));
            near(mean, wanted);
            near(deviation, wanted.sqrt());
        }
        near(moments(|chance| f64::from(u8::from(chance.happens(0.15)))).0, 0.15);
    }

    #[test]
    fn normal_and_pareto_draws_have_their_tail_shares() {
        near(moments(|chance| f64::from(u8::from(chance.normal(0.0, 1.0).abs() < 1.0))).0, 0.6827);
        near(moments(|chance| f64::from(u8::from(chance.pareto(1.2) > 2.0))).0, 0.4353);
    }

    #[test]
    fn fork_is_independent() {
        let (mut one, mut other) = (Chance::new(5), Chance::new(5));
        one.fork().normal(0.0, 1.0);
        let _ = other.fork();
        assert_eq!(one.exponential(1.0).to_bits(), other.exponential(1.0).to_bits());
        assert_ne!(one.fork().open().to_bits(), one.fork().open().to_bits());
    }
}
