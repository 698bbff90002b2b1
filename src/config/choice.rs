//! The choices of the config, an enum each: what a word means is matched without a rest, so that a rule that is listed and not
//! wired does not compile.
//!
//! The one idea: the words of a key stand once, beside the variants; the table of keys lists them, a dispatch reads them.

/// An enum whose variants have the words of a config key.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl $name {
            /// The words, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// What a word means.
            ///
            /// # Panics
            /// For a word that is none of these: a config was not read through [`crate::config::Config::parse`].
            pub fn of(word: &str) -> $name {
                match word {
                    $($word => $name::$variant,)+
                    other => panic!("`{other}` is none of {:?}", $name::WORDS),
                }
            }
        }
    };
}

choice! {
    /// `model.dtype`.
    Dtype {
        /// f32.
        F32 = "f32",
        /// bf16.
        Bf16 = "bf16",
    }
}
choice! {
    /// `engine.graphs`.
    Graphs {
        /// What cards of this kind have shown decides: [`crate::device::gpu::proven`].
        Auto = "auto",
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
    }
}
choice! {
    /// `model.matmul_precision`.
    Matmul {
        /// f32.
        Highest = "highest",
        /// f32 rounded to bf16.
        Medium = "medium",
    }
}
choice! {
    /// `game.prompt_style`.
    PromptStyle {
        /// The tiny model's.
        Compact = "compact",
        /// Full instructions.
        Paper = "paper",
    }
}
choice! {
    /// `train.checkpoint`.
    Kept {
        /// Every activation.
        None = "none",
        /// Each layer's input.
        Layers = "layers",
    }
}
choice! {
    /// `optim.schedule`.
    LrSchedule {
        /// Stays.
        Constant = "constant",
        /// Falls evenly.
        Linear = "linear",
        /// Falls along a cosine.
        Cosine = "cosine",
    }
}
choice! {
    /// `optim.moments`.
    MomentType {
        /// f32.
        F32 = "f32",
        /// bf16.
        Bf16 = "bf16",
    }
}
choice! {
    /// `eval.split`.
    Split {
        /// What training leaves out.
        Test = "test",
        /// What it trains on.
        Train = "train",
        /// Both.
        All = "all",
    }
}
choice! {
    /// `credit.rule`.
    CreditRule {
        /// The group's mean.
        Group = "group",
        /// Leave one out.
        Rloo = "rloo",
        /// Whitened over the batch.
        ReinforcePp = "reinforce_pp",
        /// The same less the group's mean.
        ReinforcePpBaseline = "reinforce_pp_baseline",
        /// Weighed by length.
        Opo = "opo",
        /// Each term by itself.
        Gdpo = "gdpo",
    }
}
choice! {
    /// `credit.split`.
    CreditSplit {
        /// A K-th to each.
        Uniform = "uniform",
        /// The mean addition.
        Shapley = "shapley",
        /// What is missing without it.
        LeaveOneOut = "leave_one_out",
        /// Its own worth.
        Own = "own",
        /// Its own less the mean.
        Difference = "difference",
    }
}
choice! {
    /// `credit.worth`.
    SetWorth {
        /// Its best.
        Max = "max",
        /// The best few.
        TopSum = "top_sum",
        /// What any meets.
        Coverage = "coverage",
        /// Its best, less what each costs.
        MaxMinusCost = "max_minus_cost",
        /// What a user picks.
        Softmax = "softmax",
    }
}
choice! {
    /// `credit.against`.
    ComparedWith {
        /// All candidates of the group.
        Group = "group",
        /// Those of its reply.
        Reply = "reply",
    }
}
choice! {
    /// `loss.objective`.
    LossObjective {
        /// The clipped ratio.
        Clip = "clip",
        /// The clipped weight.
        Cispo = "cispo",
        /// The sequence's ratio.
        Gspo = "gspo",
    }
}
choice! {
    /// `loss.aggregation`.
    LossAggregation {
        /// Tokens weigh the same.
        TokenMean = "token_mean",
        /// Episodes weigh the same.
        SequenceMean = "sequence_mean",
        /// Over a constant length.
        Constant = "constant",
    }
}
choice! {
    /// `loss.kl_estimator`.
    KlEstimator {
        /// The log ratio.
        K1 = "k1",
        /// Half its square.
        K2 = "k2",
        /// The unbiased one above 0.
        K3 = "k3",
    }
}
choice! {
    /// `loss.kl_in`.
    KlIn {
        /// In the loss.
        Loss = "loss",
        /// Off the reward.
        Reward = "reward",
    }
}
choice! {
    /// `loss.importance`.
    Importance {
        /// None.
        None = "none",
        /// Truncated.
        Tis = "tis",
        /// Masked.
        Mis = "mis",
    }
}
choice! {
    /// `loss.importance_level`.
    ImportanceLevel {
        /// Each token's ratio.
        Token = "token",
        /// The episode's.
        Sequence = "sequence",
    }
}
choice! {
    /// `reward.shape`.
    RewardShape {
        /// The game's own.
        Surplus = "surplus",
        /// In quarters.
        Tiers = "tiers",
        /// Both sides'.
        Welfare = "welfare",
        /// Against walking away.
        Batna = "batna",
    }
}
choice! {
    /// `reward.likelihood_of`.
    LikelihoodOf {
        /// A token.
        Mean = "mean",
        /// The whole answer.
        Sum = "sum",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_variants_are_one_list() {
        assert_eq!(
            Split::WORDS.iter().map(|word| Split::of(word)).collect::<Vec<_>>(),
            [Split::Test, Split::Train, Split::All]
        );
    }
}
