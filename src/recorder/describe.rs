//! Takes cards of examples, and sends them in batches.

use super::cards::{Card, CardKey, CardRow};
use super::error::RecordError;
use super::handle::Recorder;
use super::message::Message;
use super::queue::Sent;
use super::state::State;

impl Recorder {
    /// Records what the training example `id` looks like, once a run: a thumbnail, a text or a row. `gradlog report`
    /// shows it if it is given no `--data`, so a run can be looked at without its data.
    ///
    /// An example that is described already, also in an earlier session of the run, is passed over. Ask
    /// [`Recorder::is_described`] before you make a card. It may be called at any time between passes.
    ///
    /// ```no_run
    /// # use gradlog::{Card, Recorder, RecordError};
    /// # use candle_core::Tensor;
    /// # fn run(recorder: &mut Recorder, ids: &[u64], image: fn(u64) -> Tensor) -> Result<(), RecordError> {
    /// for id in ids {
    ///     if !recorder.is_described(*id) {
    ///         recorder.describe(*id, Card::image(&image(*id))?)?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RecordError::Card`] if the card is refused: it is no picture, or beyond
    /// [`Config::cards`](crate::Config::cards). Refused cards are counted, and `gradlog info` tells. Recording goes on.
    /// Otherwise the failure of the background thread, if it has failed.
    ///
    /// # Cost
    /// One look into a table for an example that is described. Otherwise the training thread makes pictures small,
    /// which reads each pixel once. Cards are sent together, at most 1,024 or about 256 KiB of them; a full queue is
    /// waited for as in [`Pass::commit`](crate::Pass::commit). Under
    /// [`Overflow::DropNewest`](crate::Overflow::DropNewest) they are dropped instead, counted as refused, and may be
    /// described again.
    pub fn describe(&mut self, id: u64, card: Card) -> Result<(), RecordError> {
        self.describe_key(None, id, card)
    }

    /// As [`Recorder::describe`], of the probe `id` of the set `set`. A set is made when it is first named.
    ///
    /// # Errors
    /// As [`Recorder::describe`]; also [`RecordError::Pass`] for a wrong name.
    ///
    /// # Cost
    /// As [`Recorder::describe`].
    pub fn describe_probe(&mut self, set: &str, id: u64, card: Card) -> Result<(), RecordError> {
        match self.probe_set(set) {
            Ok(number) => self.describe_key(Some(number), id, card),
            Err(error) if self.state.as_mut().is_some_and(|state| state.goes_on_after(&error)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the training example `id` is described. A disabled recorder says yes, because it wants no card.
    pub fn is_described(&self, id: u64) -> bool {
        self.state.as_ref().is_none_or(|state| state.cards.knows(CardKey { set: None, example: id }))
    }

    /// Whether the probe `id` of the set `set` is described. A disabled recorder says yes.
    pub fn is_probe_described(&self, set: &str, id: u64) -> bool {
        let Some(state) = &self.state else { return true };
        let number = state.probe_sets.iter().position(|name| name == set);
        number.is_some_and(|number| state.cards.knows(CardKey { set: Some(number as u32), example: id }))
    }

    fn describe_key(&mut self, set: Option<u32>, example: u64, card: Card) -> Result<(), RecordError> {
        let Some(state) = self.state.as_mut().filter(|state| !state.has_gone_on()) else { return Ok(()) };
        let key = CardKey { set, example };
        if state.cards.knows(key) {
            return Ok(());
        }
        state.cards.take(key, card).map_err(|what| RecordError::Card { example, what })?;
        match state.cards.is_batch_full() {
            true => state.send_cards(false),
            false => Ok(()),
        }
    }
}

impl State {
    /// Sends the cards that wait, and how many were refused. They wait for their turn in the queue if `wait` says so,
    /// else as the policy says.
    pub(super) fn send_cards(&mut self, wait: bool) -> Result<(), RecordError> {
        let (cards, bytes) = self.cards.take_waiting();
        let refused = self.cards.unsent_refused;
        if cards.is_empty() && refused == 0 {
            return Ok(());
        }
        let keys: Vec<(CardKey, u64)> =
            cards.iter().map(|CardRow { key, bytes, .. }| (*key, bytes.len() as u64)).collect();
        let message = Message::Cards { cards, refused, bytes };
        let sent = self.check_health().and_then(|()| {
            let queue = self.queue()?;
            match wait {
                true => queue.send_waiting(message, bytes).map(|()| Sent::Yes),
                false => queue.send(message, bytes),
            }
        });
        if matches!(sent, Ok(Sent::Yes)) {
            self.cards.unsent_refused -= refused;
            return Ok(());
        }
        self.cards.forget(&keys);
        match sent {
            Err(error) if !self.goes_on_after(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends cards that have waited for long. An error comes again with the next pass.
    pub(super) fn send_old_cards(&mut self) {
        if self.cards.has_waited(self.flush_interval) {
            let _ = self.send_cards(false);
        }
    }
}
