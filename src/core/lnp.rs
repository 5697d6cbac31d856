//! Log-probability as it travels, and as it counts: p_k *is* its wire value.
//!
//! ln p is rounded once, towards minus infinity, to a multiple of 1/1024 nat, at the expert that
//! says it (the local one too). List tests, lists, scalars and sums all use this one number, so
//! that no two places can disagree about a probability, and sums of a distribution stay <= 1.

/// Steps per nat: a relative error below 0.1 %, two bytes an entry.
const STEPS_PER_NAT: f64 = 1024.0;

/// ln p = -steps/1024; the largest value stands for "no mass" (p < e^-63.99).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LnP(u16);

impl LnP {
    pub const ZERO_MASS: LnP = LnP(u16::MAX);
    pub const CERTAIN: LnP = LnP(0);

    /// Rounds towards minus infinity. NaN becomes no mass: an expert cannot say nothing loudly.
    pub fn floor(ln_p: f64) -> LnP {
        let steps = libm::ceil(-ln_p * STEPS_PER_NAT);
        if steps.is_nan() || steps >= f64::from(u16::MAX) {
            LnP::ZERO_MASS
        } else if steps <= 0.0 {
            LnP::CERTAIN
        } else {
            LnP(steps as u16)
        }
    }

    pub fn from_wire(steps: u16) -> LnP {
        LnP(steps)
    }

    pub fn to_wire(self) -> u16 {
        self.0
    }

    pub fn ln(self) -> f64 {
        if self == LnP::ZERO_MASS {
            f64::NEG_INFINITY
        } else {
            -f64::from(self.0) / STEPS_PER_NAT
        }
    }

    pub fn p(self) -> f64 {
        if self == LnP::ZERO_MASS {
            0.0
        } else {
            libm::exp(self.ln())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_of_the_scale() {
        assert_eq!(LnP::floor(0.0), LnP::CERTAIN);
        assert_eq!(LnP::floor(1e-9), LnP::CERTAIN);
        assert_eq!(LnP::floor(f64::NEG_INFINITY), LnP::ZERO_MASS);
        assert_eq!(LnP::floor(f64::NAN), LnP::ZERO_MASS);
        assert_eq!(LnP::floor(-64.0).p(), 0.0);
        assert_eq!(LnP::floor(-1.0).ln(), -1.0);
    }

    proptest! {
        #[test]
        fn never_rounds_up_and_stays_close(ln_p in -63.0f64..0.0) {
            let said = LnP::floor(ln_p).ln();
            prop_assert!(said <= ln_p);
            prop_assert!(ln_p - said < 1.0 / STEPS_PER_NAT + 1e-12);
        }

        #[test]
        fn the_wire_keeps_every_value(steps: u16) {
            prop_assert_eq!(LnP::from_wire(steps).to_wire(), steps);
        }
    }
}
