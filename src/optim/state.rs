//! The state of an optimizer in a file, so that a resumed training continues to the last bit.
//!
//! The file is safetensors. A tensor is called after what it is and after its variable: `first_moment/fc1.weight`.

use super::adam::{Adam, AdamW};
use super::buffer::Buffer;
use super::moments::{Core, Moments};
use super::sgd::{Sgd, Velocities};
use candle_core::{bail, safetensors, Device, Result, Tensor, TensorId, Var};
use candle_nn::VarMap;
use std::collections::HashMap;
use std::path::Path;
use std::sync::PoisonError;

type Tensors = HashMap<String, Tensor>;

/// `save_state` and `load_state` of an optimizer type.
macro_rules! saved {
    ($name:ident, $field:tt) => {
        impl $name {
            /// Saves velocities or moments, by the names of `variables`. The file appears when it is whole. Settings
            /// such as the learning rate are not saved.
            ///
            /// # Errors
            /// An error if a variable of the optimizer is not in `variables`, or if the file cannot be written.
            pub fn save_state(&self, variables: &VarMap, path: impl AsRef<Path>) -> Result<()> {
                write(path.as_ref(), &self.$field.state_tensors(&Names::new(variables))?)
            }

            /// Takes up what [`Self::save_state`] saved.
            ///
            /// # Errors
            /// An error if the file cannot be read, if a tensor is missing or has another shape, or if the file has
            /// tensors of variables that the optimizer does not have. The optimizer is unchanged then.
            pub fn load_state(&mut self, variables: &VarMap, path: impl AsRef<Path>) -> Result<()> {
                let tensors = safetensors::load(path.as_ref(), &Device::Cpu)?;
                self.$field.take_tensors(&Names::new(variables), tensors)
            }
        }
    };
}

saved!(Adam, 0);
saved!(AdamW, 0);
saved!(Sgd, state);

/// The names of variables.
struct Names(HashMap<TensorId, String>);

impl Names {
    fn new(variables: &VarMap) -> Self {
        let data = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
        Self(data.iter().map(|(name, variable)| (variable.id(), name.clone())).collect())
    }

    fn find(&self, variable: &Var) -> Result<&str> {
        match self.0.get(&variable.id()) {
            Some(name) => Ok(name),
            None => bail!(
                "a variable of shape {:?} is not in the `VarMap`: give the one that the model was made with",
                variable.shape()
            ),
        }
    }
}

/// Something with a state that is a set of tensors.
trait State {
    fn state_tensors(&self, names: &Names) -> Result<Tensors>;
    fn take_tensors(&mut self, names: &Names, tensors: Tensors) -> Result<()>;
}

const VELOCITY: &str = "velocity";
const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";
const STEPS: &str = "steps";

impl State for Velocities {
    fn state_tensors(&self, names: &Names) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        if let Some(steps) = self.steps {
            tensors.insert(STEPS.into(), count_tensor(steps)?);
        }
        for parameter in &self.parameters {
            let name = names.find(&parameter.variable)?;
            if let Some(velocity) = &parameter.state {
                tensors.insert(format!("{VELOCITY}/{name}"), velocity.to_tensor(&parameter.variable)?);
            }
        }
        Ok(tensors)
    }

    fn take_tensors(&mut self, names: &Names, mut tensors: Tensors) -> Result<()> {
        let steps = tensors.remove(STEPS).map(|steps| read_count(STEPS, &steps)).transpose()?;
        let mut states = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let name = format!("{VELOCITY}/{}", names.find(&parameter.variable)?);
            let state = tensors
                .remove(&name)
                .map(|tensor| take(&name, &tensor, &parameter.variable, self.by_ops))
                .transpose()?;
            states.push(state);
        }
        check_rest(&tensors)?;
        self.parameters.iter_mut().zip(states).for_each(|(parameter, state)| parameter.state = state);
        self.steps = steps;
        Ok(())
    }
}

impl State for Core {
    fn state_tensors(&self, names: &Names) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for parameter in &self.parameters {
            let name = names.find(&parameter.variable)?;
            if let Some(Moments { first, second, steps }) = &parameter.state {
                tensors.insert(format!("{FIRST}/{name}"), first.to_tensor(&parameter.variable)?);
                tensors.insert(format!("{SECOND}/{name}"), second.to_tensor(&parameter.variable)?);
                tensors.insert(format!("{STEPS}/{name}"), count_tensor(*steps)?);
            }
        }
        Ok(tensors)
    }

    fn take_tensors(&mut self, names: &Names, mut tensors: Tensors) -> Result<()> {
        let mut states = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let name = names.find(&parameter.variable)?;
            let [first, second, steps] = [FIRST, SECOND, STEPS].map(|part| {
                let name = format!("{part}/{name}");
                let tensor = tensors.remove(&name);
                (name, tensor)
            });
            states.push(match (first, second, steps) {
                ((_, None), (_, None), (_, None)) => None,
                ((first, Some(m)), (second, Some(v)), (_, Some(steps))) => {
                    let steps = read_count(name, &steps)?;
                    Some(Moments {
                        first: take(&first, &m, &parameter.variable, self.by_ops)?,
                        second: take(&second, &v, &parameter.variable, self.by_ops)?,
                        steps,
                    })
                }
                _ => bail!("the state of `{name}` is not whole: it needs {FIRST}, {SECOND} and {STEPS}"),
            });
        }
        check_rest(&tensors)?;
        self.parameters.iter_mut().zip(states).for_each(|(parameter, state)| parameter.state = state);
        Ok(())
    }
}

fn count_tensor(steps: u64) -> Result<Tensor> {
    Tensor::new(&[i64::try_from(steps).unwrap_or(i64::MAX)], &Device::Cpu)
}

fn read_count(name: &str, tensor: &Tensor) -> Result<u64> {
    let steps = tensor.flatten_all()?.to_vec1::<i64>()?;
    let [steps] = steps[..] else { bail!("the state of `{name}` has no count of steps") };
    Ok(u64::try_from(steps).unwrap_or(0))
}

fn take(name: &str, tensor: &Tensor, variable: &Var, by_ops: bool) -> Result<Buffer> {
    match Buffer::from_tensor(tensor, variable, by_ops) {
        Ok(buffer) => Ok(buffer),
        Err(error) => bail!("the tensor `{name}` does not fit its variable: {error}"),
    }
}

fn check_rest(tensors: &Tensors) -> Result<()> {
    if let Some(name) = tensors.keys().min() {
        bail!("the file has a tensor `{name}`, of which the optimizer knows no variable: is it the state of another model?");
    }
    Ok(())
}

/// Writes beside the file, and renames.
fn write(path: &Path, tensors: &Tensors) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    safetensors::save(tensors, &beside)?;
    let renamed = std::fs::File::open(&beside).and_then(|file| file.sync_all());
    if let Err(error) = renamed.and_then(|()| std::fs::rename(&beside, path)) {
        // The half that was written is of no use.
        let _ = std::fs::remove_file(&beside);
        bail!("{}: {error}", path.display());
    }
    Ok(())
}
