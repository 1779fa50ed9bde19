//! The clocks of one host: a monotonic one that drifts, and a wall clock that drifts, jumps and runs backwards.
//! Both are piecewise linear functions of the world's time; hosts know nothing of each other's.

use crate::rng::Stream;

/// The wall clock's reading when a run starts: 2026-01-01T00:00:00Z, in nanoseconds.
const EPOCH_NS: i64 = 1_767_225_600 * 1_000_000_000;
const MILLION: i128 = 1_000_000;

/// How far clocks stray from the start. All zero: perfect clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockOptions {
    /// The largest drift of a host's clocks, in millionths, either way.
    pub drift_max_ppm: u32,
    /// The largest offset of a host's wall clock at the start, in milliseconds, either way.
    pub offset_max_ms: u32,
}

/// The clocks of one host.
#[derive(Clone, Debug)]
pub struct HostClock {
    drift_ppm: i64,
    anchor_world_ns: u64,
    anchor_monotonic_ns: u64,
    anchor_wall_ns: i64,
}

impl HostClock {
    /// The clocks of a host, drawn from its stream.
    pub fn new(options: &ClockOptions, stream: &mut Stream) -> Self {
        let drift = i64::from(options.drift_max_ppm);
        let offset = i64::from(options.offset_max_ms);
        let drift_ppm = stream.below(2 * drift as u64 + 1) as i64 - drift;
        let offset_ms = stream.below(2 * offset as u64 + 1) as i64 - offset;
        Self { drift_ppm, anchor_world_ns: 0, anchor_monotonic_ns: stream.below(1 << 40), anchor_wall_ns: EPOCH_NS + offset_ms * 1_000_000 }
    }

    fn elapsed(&self, world_ns: u64) -> i128 {
        i128::from(world_ns.saturating_sub(self.anchor_world_ns)) * (MILLION + i128::from(self.drift_ppm)) / MILLION
    }

    /// The monotonic clock at `world_ns`.
    pub fn monotonic_ns(&self, world_ns: u64) -> u64 {
        self.anchor_monotonic_ns.saturating_add(self.elapsed(world_ns) as u64)
    }

    /// The wall clock at `world_ns`, in nanoseconds since 1970.
    pub fn wall_ns(&self, world_ns: u64) -> i64 {
        self.anchor_wall_ns.saturating_add(self.elapsed(world_ns) as i64)
    }

    /// The earliest time of the world at which the monotonic clock, as it runs now, shows at least `monotonic_ns`.
    pub fn world_at(&self, monotonic_ns: u64) -> u64 {
        let ahead = i128::from(monotonic_ns.saturating_sub(self.anchor_monotonic_ns));
        let rate = MILLION + i128::from(self.drift_ppm);
        let world = (ahead * MILLION + rate - 1) / rate;
        self.anchor_world_ns.saturating_add(u64::try_from(world).unwrap_or(u64::MAX))
    }

    fn anchor(&mut self, world_ns: u64) {
        (self.anchor_monotonic_ns, self.anchor_wall_ns) = (self.monotonic_ns(world_ns), self.wall_ns(world_ns));
        self.anchor_world_ns = world_ns;
    }

    /// From now on both clocks run faster (or slower, if negative) by `drift_ppm` millionths. At most half a million either way.
    pub fn set_drift(&mut self, world_ns: u64, drift_ppm: i64) {
        assert!(drift_ppm.abs() <= 500_000, "a drift of {drift_ppm} ppm is no clock");
        self.anchor(world_ns);
        self.drift_ppm = drift_ppm;
    }

    /// The wall clock jumps by `by_ms`, backwards if negative. The monotonic clock does not.
    pub fn jump(&mut self, world_ns: u64, by_ms: i64) {
        self.anchor(world_ns);
        self.anchor_wall_ns = self.anchor_wall_ns.saturating_add(by_ms.saturating_mul(1_000_000));
    }

    /// Sets the wall clock right and takes the drift away, as a time daemon does in the end.
    pub fn heal(&mut self, world_ns: u64) {
        self.set_drift(world_ns, 0);
        self.anchor_wall_ns = EPOCH_NS + world_ns as i64;
    }

    /// The monotonic clock starts anew, as at a reboot.
    pub fn reboot(&mut self, world_ns: u64) {
        self.anchor(world_ns);
        self.anchor_monotonic_ns = 1_000_000_000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_jumps_and_the_inverse() {
        let mut clock = HostClock::new(&ClockOptions { drift_max_ppm: 400, offset_max_ms: 5_000 }, &mut Stream::new(1, "clock", 0));
        let mut now = 0;
        for step in 1..200u64 {
            let before = clock.monotonic_ns(now);
            match step % 4 {
                0 => clock.set_drift(now, (step as i64 - 100) * 1_000),
                1 => clock.jump(now, 500 - 10 * step as i64),
                _ => {}
            }
            assert_eq!(clock.monotonic_ns(now), before, "neither a jump nor a change of speed moves the monotonic clock");
            let target = before + step * 7_919;
            let at = clock.world_at(target);
            assert!(at >= now && clock.monotonic_ns(at) >= target, "at {at} the clock shows {}", clock.monotonic_ns(at));
            assert!(at <= now + 1 || clock.monotonic_ns(at - 2) < target + 4);
            now += step * 1_000_003;
        }
        let wall = clock.wall_ns(now);
        clock.jump(now, -10_000);
        assert_eq!(clock.wall_ns(now), wall - 10_000_000_000);
    }
}
