//! A small llama: RMS norms, rotary embeddings, two queries for each key, a gated MLP, and a head that shares the
//! embedding's weight.

use super::nn::{
    embedding, linear_no_bias, ops, rms_norm, rotary_emb::rope, Embedding, Linear, Module, RmsNorm, VarBuilder,
};
use candle_core::{Result, Tensor};

const WIDTH: usize = 16;
const HEADS: usize = 4;
const KEYS: usize = 2;
const HEAD: usize = WIDTH / HEADS;

#[derive(Debug, Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    cos: Tensor,
    sin: Tensor,
}

impl Attention {
    fn load(vb: VarBuilder, length: usize) -> Result<Self> {
        let angle = |i: usize| (i / (HEAD / 2)) as f32 / 100f32.powf((i % (HEAD / 2)) as f32 / (HEAD / 2) as f32);
        let table = |f: fn(f32) -> f32| {
            let numbers = (0..length * HEAD / 2).map(|i| f(angle(i))).collect::<Vec<_>>();
            Tensor::from_vec(numbers, (length, HEAD / 2), vb.device())
        };
        Ok(Self {
            q_proj: linear_no_bias(WIDTH, WIDTH, vb.pp("q_proj"))?,
            k_proj: linear_no_bias(WIDTH, KEYS * HEAD, vb.pp("k_proj"))?,
            v_proj: linear_no_bias(WIDTH, KEYS * HEAD, vb.pp("v_proj"))?,
            o_proj: linear_no_bias(WIDTH, WIDTH, vb.pp("o_proj"))?,
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        let split = |x: Tensor, heads| x.reshape((batch, length, heads, HEAD))?.transpose(1, 2)?.contiguous();
        let repeat = |x: Tensor| {
            let shape = (batch, KEYS, HEADS / KEYS, length, HEAD);
            x.unsqueeze(2)?.expand(shape)?.reshape((batch, HEADS, length, HEAD))
        };
        let q = rope(&split(self.q_proj.forward(x)?, HEADS)?, &self.cos, &self.sin)?;
        let k = rope(&split(self.k_proj.forward(x)?, KEYS)?, &self.cos, &self.sin)?;
        let v = split(self.v_proj.forward(x)?, KEYS)?;
        let scores = (q.matmul(&repeat(k)?.t()?)? / (HEAD as f64).sqrt())?;
        let mixed = ops::softmax_last_dim(&scores)?.matmul(&repeat(v)?.contiguous()?)?;
        self.o_proj.forward(&mixed.transpose(1, 2)?.reshape((batch, length, WIDTH))?)
    }
}

#[derive(Debug, Clone)]
struct Block {
    norm_1: RmsNorm,
    attention: Attention,
    norm_2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn load(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm_1: rms_norm(WIDTH, 1e-5, vb.pp("input_layernorm"))?,
            attention: Attention::load(vb.pp("self_attn"), 4)?,
            norm_2: rms_norm(WIDTH, 1e-5, vb.pp("post_attention_layernorm"))?,
            gate: linear_no_bias(WIDTH, 2 * WIDTH, vb.pp("mlp.gate_proj"))?,
            up: linear_no_bias(WIDTH, 2 * WIDTH, vb.pp("mlp.up_proj"))?,
            down: linear_no_bias(2 * WIDTH, WIDTH, vb.pp("mlp.down_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.norm_1.forward(x)?)?)?;
        let h = self.norm_2.forward(&x)?;
        let h = (ops::silu(&self.gate.forward(&h)?)? * self.up.forward(&h)?)?;
        x + self.down.forward(&h)?
    }
}

#[derive(Debug, Clone)]
pub struct Llama {
    wte: Embedding,
    blocks: Vec<Block>,
    ln_f: RmsNorm,
    lm_head: Linear,
}

impl Llama {
    pub fn load(vb: VarBuilder) -> Result<Self> {
        let wte = embedding(11, WIDTH, vb.pp("model.embed_tokens"))?;
        let lm_head = Linear::new(wte.embeddings().clone(), None);
        let blocks = (0..2).map(|n| Block::load(vb.pp(format!("model.layers.{n}")))).collect::<Result<_>>()?;
        Ok(Self { wte, blocks, ln_f: rms_norm(WIDTH, 1e-5, vb.pp("model.norm"))?, lm_head })
    }

    /// Logits of the next token after the last one, of which the first three are taken as classes.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, length) = ids.dims2()?;
        let mut x = self.wte.forward(ids)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let x = self.ln_f.forward(&x)?;
        self.lm_head.forward(&x)?.narrow(1, length - 1, 1)?.squeeze(1)?.narrow(1, 0, 3)?.contiguous()
    }
}
