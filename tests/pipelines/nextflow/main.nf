// Train once, segment every scan, score the masks, and leave one page with the result.
//
//   nextflow run main.nf --data cells --scans 'scans/*.tif' --truth truth
//   nextflow run main.nf --data cells --scans 'scans/*.tif' --train '--epochs 50 --features 24'
//
// data    what `unet train` learns from
// scans   a glob of images to segment
// truth   a folder of masks of the same names; without it nothing is scored
// train   options for `unet train`
// out     where everything goes

params.data = null
params.scans = null
params.truth = null
params.train = ''
params.out = 'results'

process TRAIN {
    publishDir params.out, mode: 'copy'

    input:
    path data

    output:
    path 'unet.safetensors', emit: model
    path 'unet.run', emit: run

    script:
    """
    unet train ${data} -o unet.safetensors --threads ${task.cpus} ${params.train}
    """
}

// One image per task; the executor decides how many run side by side.
process INFER {
    tag "${scan.baseName}"
    publishDir "${params.out}/masks", mode: 'copy'
    maxRetries 2
    // 6: memory, device, open files; 143: terminated by a scheduler. Nothing else gets better by itself.
    errorStrategy { task.exitStatus in [6, 143] ? 'retry' : 'terminate' }

    input:
    path model
    path scan, stageAs: 'scans/*'

    output:
    path "${scan.baseName}.tif", emit: mask

    script:
    """
    unet infer ${scan} -m ${model} -o ${scan.baseName}.tif --threads ${task.cpus}
    """
}

process EVALUATE {
    publishDir params.out, mode: 'copy'

    input:
    path masks, stageAs: 'masks/*'
    path truth

    output:
    path 'scores.json', emit: scores
    path 'report.html', emit: report

    script:
    """
    unet evaluate masks ${truth} --json scores.json --report report.html --workers ${task.cpus}
    """
}

workflow {
    TRAIN(channel.fromPath(params.data, type: 'any', checkIfExists: true))
    INFER(TRAIN.out.model.first(), channel.fromPath(params.scans, checkIfExists: true))
    if (params.truth) {
        EVALUATE(INFER.out.mask.collect(), channel.fromPath(params.truth, type: 'dir', checkIfExists: true))
    }
}
