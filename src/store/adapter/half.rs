//! Numbers of 16 bits.

/// The nearest f16, ties to even. None if there is none: infinite, not a number, or above 65,504.
pub(super) fn to_f16(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let (sign, size) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    let half = if size >= 0x4780_0000 {
        return None; // 65,536 and more
    } else if size >= 0x3880_0000 {
        // 2^-14 and more: drop 13 bits of the fraction, and move the exponent's zero.
        let even = (size >> 13) & 1;
        (size + 0xfff + even - 0x3800_0000) >> 13
    } else {
        // A whole number of 2^-24; the product is exact.
        (f32::from_bits(size) * 16_777_216.0).round_ties_even() as u32
    };
    (half < 0x7c00).then_some(sign | half as u16)
}

pub(super) fn from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10) & 0x1f, u32::from(half & 0x3ff));
    let size = match exponent {
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | size)
}

pub(super) fn from_bf16(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_comes_back() {
        for half in 0..=u16::MAX {
            let value = from_f16(half);
            let finite = half & 0x7c00 != 0x7c00;
            assert_eq!(value.is_finite(), finite, "{half:04x}");
            assert_eq!(to_f16(value), finite.then_some(half), "{half:04x}");
        }
        assert_eq!(from_f16(0x3c00), 1.0);
        assert_eq!(from_f16(0xc000), -2.0);
        assert_eq!(from_f16(0x0001), 2.0_f32.powi(-24));
        assert_eq!(from_bf16(0x3fc0), 1.5);
    }

    #[test]
    fn between_two_the_nearer_one_and_of_equals_the_even_one() {
        for low in 0..0x7bff_u16 {
            let (a, b) = (from_f16(low), from_f16(low + 1));
            let middle = (a + b) / 2.0; // exact: f32 has 13 more bits
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(to_f16(middle), Some(even), "{low:04x}");
            assert_eq!(to_f16(middle.next_down()), Some(low), "{low:04x}");
            assert_eq!(to_f16(-middle.next_up()), Some((low + 1) | 0x8000));
        }
    }

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(to_f16(65_504.0), Some(0x7bff));
        assert_eq!(to_f16(65_519.9), Some(0x7bff));
        for value in [65_520.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(to_f16(value), None, "{value}");
        }
        assert_eq!(to_f16(1e-30), Some(0));
    }
}
