//! What bounds a learner's influence on what leaves: integer clipping of each contribution, and discrete
//! Gaussian noise from the operating system's generator. Decides nothing: how much of either is the plan's
//! and the policy's, what it costs is `collegium_shared::accountant`'s. No floating-point Gaussian here or
//! anywhere on the path of noise that is claimed (Mironov 2012, "On Significance of the Least Significant
//! Bits for Differential Privacy").
//!
//! **Not constant time.** Both samplers reject and start over, look tables up at drawn places and now and
//! then decide a draw in a slower way; clipping branches on values and norms. Who can measure an agent's
//! time or caches to nanoseconds, from the same machine, may learn something of the noise or of a learner's
//! norm. Over the network nothing of it shows: what is sent has one size and leaves when a phase begins.

pub mod bounded_sum;
pub mod bulk;
pub mod clip;
pub mod discrete_gaussian;
mod exponential;
pub mod random_bits;

pub use bounded_sum::{BoundedSum, NoiseError};
pub use bulk::BulkSampler;
pub use clip::IntegerClip;
pub use discrete_gaussian::{ExactSampler, Variance};
pub use random_bits::{Entropy, NoRandomness, RandomBits};

#[cfg(test)]
mod tests;
