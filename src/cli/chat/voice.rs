//! The model's side of a chat: one sequence in an engine of its own.

use crate::device::Device;
use crate::error::Result;
use crate::infer::{Engine, EngineConfig, NoiseKey, Sampling, SeqId};
use crate::negotiate::{Episode, Side};
use crate::noise::Noise;
use crate::setup::base::Base;
use crate::text::Transcript;

/// A model that speaks for one side of one game.
pub struct Speaker<'a> {
    model: &'a Base,
    engine: Engine,
    sampling: Sampling,
    key: NoiseKey,
    heard: Option<(Transcript, SeqId)>,
}

impl<'a> Speaker<'a> {
    /// A speaker with an engine of these sizes.
    ///
    /// # Errors
    /// What the engine refuses.
    pub fn new(
        dev: &Device,
        model: &'a Base,
        sizes: EngineConfig,
        sampling: Sampling,
        noise: Noise,
    ) -> Result<Speaker<'a>> {
        let engine = Engine::new(dev, &model.weights.config, sizes)?;
        let key = NoiseKey { seed: noise.seed, stream: noise.stream };
        Ok(Speaker { model, engine, sampling, key, heard: None })
    }

    /// The model's reply in its next turn.
    ///
    /// # Errors
    /// What the engine refuses: a prompt or a dialogue longer than the context.
    pub fn reply(&mut self, episode: &Episode, side: Side) -> Result<String> {
        let chat = &self.model.chat;
        let text = episode.view(side);
        let (mut transcript, seq) = match self.heard.take() {
            Some((transcript, seq)) => (transcript, Some(seq)),
            None => (Transcript::new(chat, &episode.system_prompt(side))?, None),
        };
        let new = transcript.push_incoming(chat, &text)?;
        let seq = match seq {
            Some(seq) => {
                self.engine.extend(seq, &transcript.ids()[new])?;
                seq
            }
            None => self.engine.add(transcript.ids(), self.sampling, self.key)?,
        };
        while self.engine.step(&self.model.weights)? {
            if let Some(turn) = self.engine.next_finished() {
                transcript.push_sampled(turn.ids, turn.logprobs);
                let said = chat.reply_text(turn.ids)?;
                self.heard = Some((transcript, seq));
                return Ok(said);
            }
        }
        self.heard = Some((transcript, seq));
        Ok(String::new())
    }
}
