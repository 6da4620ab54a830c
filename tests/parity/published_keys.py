"""Every key of a published checkpoint and of what it was trained on, with its shape, for a network of any size.

Written down from the published names and the sizes of a configuration, not from our modules, so that it can tell
whether those are right. The small reference state says whether this table is.
"""

from __future__ import annotations

from x2sam.config import X2SAMConfig

Shapes = dict[str, tuple[int, ...]]
VLM = "vlm.base_model.model."
TEXT, VISUAL = VLM + "model.language_model.", VLM + "model.visual."
DEFORMABLE_LEVELS, MEMORY_SCALES, HIERA_MLP, PATCH_KERNEL = 3, 3, 4, 7


def weight_bias(prefix: str, *shape: int) -> Shapes:
    """A linear or a convolution; with one number a norm."""
    return {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}


def attention(prefix: str, width: int, names: tuple[str, ...]) -> Shapes:
    return {k: v for name in names for k, v in weight_bias(f"{prefix}.{name}", width, width).items()}


def released(config: X2SAMConfig) -> Shapes:
    """What the published file holds."""
    width, language = config.width, config.text["hidden_size"]
    words = (config.text["vocab_size"], language)
    grouped = config.mask_encoder.widths[2] * 4
    return {
        **hiera(config),
        **pixel_decoder(config),
        **mask_decoder(config),
        **memory_encoder(config),
        **memory_attention(config),
        **mergers(config),
        **lora(config),
        TEXT + "embed_tokens.weight": words,
        VLM + "lm_head.weight": words,
        "segmentor.no_memory_embedding": (1, 1, width),
        "segmentor.shared_image_embedding.positional_embedding": (2, width // 2),
        "segmentor.class_predictor.logit_scale": (1,),
        "bg_embeds.weight": (1, width),
        **weight_bias("mlm_projector.model.0", width, language),
        **weight_bias("mlm_projector.model.2", width, width),
        **weight_bias("extra_projector.model.0", language, grouped),
        **weight_bias("extra_projector.model.2", language, language),
    }


def frozen(config: X2SAMConfig) -> Shapes:
    """What has to come from the base model, in the names that training gives it."""
    vision, text = config.vision, config.text
    wide = vision["hidden_size"]
    patch = (vision["in_channels"], vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    out: Shapes = {
        **weight_bias(VISUAL + "patch_embed.proj", wide, *patch),
        VISUAL + "pos_embed.weight": (vision["num_position_embeddings"], wide),
        TEXT + "norm.weight": (text["hidden_size"],),
    }
    for i in range(vision["depth"]):
        block = f"{VISUAL}blocks.{i}."
        out |= weight_bias(block + "norm1", wide) | weight_bias(block + "norm2", wide)
        out |= weight_bias(block + "attn.qkv", 3 * wide, wide) | weight_bias(block + "attn.proj", wide, wide)
        out |= weight_bias(block + "mlp.linear_fc1", vision["intermediate_size"], wide)
        out |= weight_bias(block + "mlp.linear_fc2", wide, vision["intermediate_size"])
    for i in range(text["num_hidden_layers"]):
        layer = f"{TEXT}layers.{i}."
        out |= {f"{layer}{name}.base_layer.weight": shape for name, shape in adapted(config).items()}
        out |= {f"{layer}self_attn.{n}_norm.weight": (text["head_dim"],) for n in "qk"}
        out |= {f"{layer}{n}.weight": (text["hidden_size"],) for n in ("input_layernorm", "post_attention_layernorm")}
    return out


def adapted(config: X2SAMConfig) -> dict[str, tuple[int, int]]:
    """Linears of a text layer that have LoRA, (out, in)."""
    text = config.text
    language, inner = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * text["head_dim"]
    keys = text["num_key_value_heads"] * text["head_dim"]
    return {
        "self_attn.q_proj": (queries, language),
        "self_attn.k_proj": (keys, language),
        "self_attn.v_proj": (keys, language),
        "self_attn.o_proj": (language, queries),
        "mlp.gate_proj": (inner, language),
        "mlp.up_proj": (inner, language),
        "mlp.down_proj": (language, inner),
    }


def lora(config: X2SAMConfig) -> Shapes:
    rank, out = config.lora.rank, {}
    for i in range(config.text["num_hidden_layers"]):
        for name, (rows, columns) in adapted(config).items():
            out[f"{TEXT}layers.{i}.{name}.lora_A.default.weight"] = (rank, columns)
            out[f"{TEXT}layers.{i}.{name}.lora_B.default.weight"] = (rows, rank)
    return out


def mergers(config: X2SAMConfig) -> Shapes:
    """The joins of neighbouring patches; DeepStack's norm comes after the join, the last one's before it."""
    vision = config.vision
    joined = vision["hidden_size"] * vision["spatial_merge_size"] ** 2
    stacked = [f"deepstack_merger_list.{i}" for i in range(len(vision["deepstack_visual_indexes"]))]
    out: Shapes = {}
    for name in ("merger", *stacked):
        out |= weight_bias(f"{VISUAL}{name}.norm", vision["hidden_size"] if name == "merger" else joined)
        out |= weight_bias(f"{VISUAL}{name}.linear_fc1", joined, joined)
        out |= weight_bias(f"{VISUAL}{name}.linear_fc2", vision["out_hidden_size"], joined)
    return out


def hiera(config: X2SAMConfig) -> Shapes:
    encoder, prefix = config.mask_encoder, "segmentor.encoder.backbone."
    first, window = encoder.widths[0], encoder.windows[0]
    out: Shapes = {
        prefix + "pos_embed": (1, first, *encoder.position_grid),
        prefix + "pos_embed_window": (1, first, window, window),
        **weight_bias(prefix + "patch_embed.projection", first, 3, PATCH_KERNEL, PATCH_KERNEL),
    }
    number, before = 0, first
    for width, count in zip(encoder.widths, encoder.blocks, strict=True):
        for _ in range(count):
            block = f"{prefix}blocks.{number}."
            out |= weight_bias(block + "layer_norm1", before) | weight_bias(block + "layer_norm2", width)
            out |= weight_bias(block + "attn.qkv", 3 * width, before) | weight_bias(block + "attn.proj", width, width)
            out |= weight_bias(block + "mlp.proj_in", HIERA_MLP * width, width)
            out |= weight_bias(block + "mlp.proj_out", width, HIERA_MLP * width)
            if before != width:
                out |= weight_bias(block + "proj", width, before)
            number, before = number + 1, width
    for i, width in enumerate(reversed(encoder.widths)):
        out |= weight_bias(f"segmentor.encoder.neck.convs.{i}", encoder.fpn_width, width, 1, 1)
    return out


def pixel_decoder(config: X2SAMConfig) -> Shapes:
    decoder, prefix = config.pixel_decoder, "segmentor.pixel_decoder."
    width, samples = decoder.width, decoder.heads * DEFORMABLE_LEVELS * decoder.points
    out: Shapes = {
        prefix + "level_embed": (DEFORMABLE_LEVELS, width),
        prefix + "adapter_1.0.weight": (width, decoder.in_channels[0], 1, 1),
        **weight_bias(prefix + "adapter_1.1", width),
        prefix + "layer_1.0.weight": (width, width, 3, 3),
        **weight_bias(prefix + "layer_1.1", width),
        **weight_bias(prefix + "mask_projection", width, width, 1, 1),
    }
    for i, channels in enumerate(reversed(decoder.in_channels)):
        out |= weight_bias(f"{prefix}input_projections.{i}.0", width, channels, 1, 1)
        out |= weight_bias(f"{prefix}input_projections.{i}.1", width)
    for i in range(decoder.layers):
        layer = f"{prefix}encoder.layers.{i}."
        out |= weight_bias(layer + "self_attn.sampling_offsets", 2 * samples, width)
        out |= weight_bias(layer + "self_attn.attention_weights", samples, width)
        out |= attention(layer + "self_attn", width, ("value_proj", "output_proj"))
        out |= weight_bias(layer + "self_attn_layer_norm", width) | weight_bias(layer + "final_layer_norm", width)
        out |= weight_bias(layer + "fc1", decoder.ffn, width) | weight_bias(layer + "fc2", width, decoder.ffn)
    return out


def mask_decoder(config: X2SAMConfig) -> Shapes:
    decoder, prefix = config.mask_decoder, "segmentor.decoder."
    width, queries = decoder.width, (decoder.queries, decoder.width)
    out: Shapes = {
        prefix + "queries_embedder.weight": queries,
        prefix + "queries_features.weight": queries,
        prefix + "level_embed.weight": (DEFORMABLE_LEVELS, width),
        **weight_bias(prefix + "decoder.layernorm", width),
    }
    for i in range(3):
        out |= weight_bias(f"{prefix}decoder.mask_predictor.mask_embedder.{i}.0", width, width)
    for i in range(decoder.layers):
        layer = f"{prefix}decoder.layers.{i}."
        for name in ("cross_attn", "text_cross_attn"):
            out |= {f"{layer}{name}.in_proj_weight": (3 * width, width), f"{layer}{name}.in_proj_bias": (3 * width,)}
            out |= weight_bias(f"{layer}{name}.out_proj", width, width)
            out |= weight_bias(f"{layer}{name}_layer_norm", width)
        out |= attention(layer + "self_attn", width, ("q_proj", "k_proj", "v_proj", "out_proj"))
        out |= weight_bias(layer + "self_attn_layer_norm", width) | weight_bias(layer + "final_layer_norm", width)
        out |= weight_bias(layer + "fc1", decoder.ffn, width) | weight_bias(layer + "fc2", width, decoder.ffn)
    return out


def downsampler(prefix: str, inputs: int, outputs: int, halvings: int) -> Shapes:
    out: Shapes = {}
    for i in range(halvings):
        out |= weight_bias(f"{prefix}.layers.{i}.conv", inputs * 4, inputs, 3, 3)
        out |= weight_bias(f"{prefix}.layers.{i}.layer_norm", inputs * 4)
        inputs *= 4
    return out | weight_bias(f"{prefix}.final_conv", outputs, inputs, 1, 1)


def memory_encoder(config: X2SAMConfig) -> Shapes:
    memory, prefix = config.memory, "segmentor.memory_encoder."
    width, inner = memory.width, memory.fuser_inner
    out = downsampler(prefix + "mask_downsampler", 1, width, 2) | weight_bias(prefix + "projection", width, width, 1, 1)
    for i in range(MEMORY_SCALES):
        out |= downsampler(f"{prefix}vision_downsampler.{i}", width, width, i)
    for i in range(memory.fuser_layers):
        layer = f"{prefix}memory_fuser.layers.{i}."
        out |= {layer + "scale": (width,), **weight_bias(layer + "depthwise_conv", width, 1, 7, 7)}
        out |= weight_bias(layer + "layer_norm", width)
        out |= weight_bias(layer + "pointwise_conv1", inner, width)
        out |= weight_bias(layer + "pointwise_conv2", width, inner)
    return out


def memory_attention(config: X2SAMConfig) -> Shapes:
    memory, prefix = config.memory, "segmentor.memory_attention."
    width = memory.width
    out = weight_bias(prefix + "layer_norm", width)
    for i in range(memory.attention_layers):
        layer = f"{prefix}layers.{i}."
        for name in ("self_attn", "cross_attn"):
            out |= attention(layer + name, width, ("q_proj", "k_proj", "v_proj", "o_proj"))
        out |= weight_bias(layer + "linear1", memory.ffn, width) | weight_bias(layer + "linear2", width, memory.ffn)
        for i_norm in (1, 2, 3):
            out |= weight_bias(f"{layer}layer_norm{i_norm}", width)
    return out
